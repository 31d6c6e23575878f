"""The configuration of a training: the preset that fits the data, or a file of the user's, and single values on top."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from recsys.config import Config
from recsys.errors import ConfigError

_PACKAGED: Final = Path(__file__).parent / "presets"
_CHECKOUT: Final = Path(__file__).parent.parent / "configs"
_DEFAULT: Final = "default"


def presets_folder() -> Path:
    """Return the folder of the presets: inside the installed package, or configs/ of a checkout.

    Raises:
        ConfigError: neither is there.
    """
    for folder in (_PACKAGED, _CHECKOUT):
        if (folder / f"{_DEFAULT}.yaml").is_file():
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
    if name not in (names := preset_names()):
        raise ConfigError(f"no preset {name!r}; there are {', '.join(names)}")
    return Config.from_yaml(presets_folder() / f"{name}.yaml")


def preset_for(format: str) -> Config:
    """Return the configuration that fits a data format: the preset of its name, the defaults where there is none."""
    return preset(format if format in preset_names() else _DEFAULT)


def choose_config(
    config: Config | Path | str | None, format: str, overrides: Mapping[str, Any] | None = None
) -> Config:
    """Return the configuration that was given, or the preset that fits the data's format, with overrides applied.

    config: a configuration, the path of a YAML file, or None. overrides: dotted keys such as `encoder.epochs`, and
    their values.

    Raises:
        ConfigError: the file or a value cannot be used.
    """
    if config is None:
        chosen = preset_for(format)
    else:
        chosen = config if isinstance(config, Config) else Config.from_yaml(Path(config))
    return chosen.with_overrides(dict(overrides)) if overrides else chosen


def parse_overrides(settings: Sequence[str], *, tracking_uri: str | None = None) -> dict[str, Any]:
    """Return `KEY=VALUE` texts as a mapping; values are read as YAML: `3`, `true`, `[1, 6]` and `null` are no text.

    tracking_uri: sets `tracking.uri` beside them.

    Raises:
        ConfigError: a text has no `=`, or its value is no YAML.
    """
    values: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"--set {setting!r} is no setting; write SECTION.KEY=VALUE, such as encoder.epochs=1")
        try:
            values[key.strip()] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            reason = str(error).split("\n", 1)[0]
            raise ConfigError(f"--set {setting!r}: the value is no YAML ({reason}); put it in quotes") from None
    return values | ({"tracking.uri": tracking_uri} if tracking_uri else {})
