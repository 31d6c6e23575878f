"""The configurations that come with the engine, one per kind of data, and which of them fits a data format."""

from pathlib import Path
from typing import Final

from recsys.config import Config
from recsys.errors import ConfigError

_PACKAGED: Final = Path(__file__).parent / "presets"
_CHECKOUT: Final = Path(__file__).parent.parent / "configs"


def presets_folder() -> Path:
    """Return the folder of the presets: inside the installed package, or configs/ of a checkout.

    Raises:
        ConfigError: neither is there.
    """
    for folder in (_PACKAGED, _CHECKOUT):
        if (folder / "default.yaml").is_file():
            return folder
    raise ConfigError(
        f"the presets are neither in {_PACKAGED} nor in {_CHECKOUT}; install recsys-engine again, or give a "
        "configuration of your own with --config FILE"
    )


def preset_names() -> list[str]:
    """Return the names of all presets, sorted."""
    return sorted(path.stem for path in presets_folder().glob("*.yaml"))


def preset(name: str) -> Config:
    """Return the configuration of a preset.

    Raises:
        ConfigError: there is no preset of this name.
    """
    path = presets_folder() / f"{name}.yaml"
    if not path.is_file():
        raise ConfigError(f"no preset {name!r}; there are {', '.join(preset_names())}")
    return Config.from_yaml(path)


def preset_for(format: str) -> Config:
    """Return the configuration that fits a data format: the preset of its name, the defaults where there is none."""
    return preset(format if format in preset_names() else "default")
