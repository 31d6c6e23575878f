"""The configuration: reading, refusing, overriding; the presets, and the files that are generated from the models."""

import json
from pathlib import Path

import pytest
import yaml

from recsys import preset_files
from recsys.config import Config
from recsys.config_reference import DEFAULTS_FILE, REFERENCE_FILE, SCHEMA_FILE, defaults_yaml, reference, schema
from recsys.datasets.detect import READERS
from recsys.errors import ConfigError
from recsys.preset_files import choose_config, parse_overrides, preset, preset_for, preset_names


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_changes_what_it_names_and_nothing_else(tmp_path: Path) -> None:
    config = Config.from_yaml(write(tmp_path, "encoder:\n  epochs: 7\nseed: 3\n"))

    assert (config.seed, config.encoder.epochs) == (3, 7)
    assert config.encoder.batch_size == Config().encoder.batch_size
    assert config.ranker == Config().ranker


def test_an_empty_file_is_the_defaults(tmp_path: Path) -> None:
    assert Config.from_yaml(write(tmp_path, "")) == Config()


def test_every_fault_of_a_file_is_named_with_its_value(tmp_path: Path) -> None:
    path = write(tmp_path, "encoder: {epoch: 7, epochs: -1}\nsplit: {kind: random}\n")

    with pytest.raises(ConfigError, match=r"mine\.yaml has 3 fault\(s\)") as refused:
        Config.from_yaml(path)

    assert all(
        part in str(refused.value)
        for part in (
            "encoder.epoch:",
            "encoder.epochs:",
            "(got -1)",
            "split.kind:",
            "'random'",
            "docs/configuration.md",
        )
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [("- 1\n- 2\n", "holds a list; a configuration is a mapping"), ("a: [1", "cannot be read as YAML")],
)
def test_what_is_no_mapping_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Config.from_yaml(write(tmp_path, text))


def test_a_missing_file_is_refused_with_a_hint(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no configuration file at .*nix\.yaml; name one of those in configs/"):
        Config.from_yaml(tmp_path / "nix.yaml")


def test_yaml_cannot_name_python_classes(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read as YAML"):
        Config.from_yaml(write(tmp_path, "seed: !!python/object/apply:os.getpid []\n"))


def test_a_configuration_survives_json() -> None:
    config = Config().with_overrides({"features.windows_hours": [1, 2], "tracking.uri": "sqlite:///other.db"})

    assert Config.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize("key", ["data.sentiment", "encoder.mixed_precision", "sequence.mixed_precision"])
@pytest.mark.parametrize("value", ["off", "on", "'off'", "auto"])
def test_a_switch_may_be_written_without_quotes_though_yaml_reads_a_boolean(
    key: str, value: str, tmp_path: Path
) -> None:
    section, name = key.split(".")

    of_file = Config.from_yaml(write(tmp_path, f"{section}:\n  {name}: {value}\n"))
    of_option = Config().with_overrides(parse_overrides([f"{key}={value}"]))

    assert of_file == of_option
    assert getattr(getattr(of_file, section), name) == value.strip("'")


def test_overrides_leave_the_original_as_it_is() -> None:
    original = Config()

    changed = original.with_overrides({"encoder.epochs": 1, "seed": 9})

    assert (changed.encoder.epochs, changed.seed) == (1, 9)
    assert original == Config()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"encode.epochs": 1}, "no setting 'encode.epochs'"),
        ({"encoder.epoch": 1}, "encoder.epoch: Extra inputs"),
        ({"encoder.epochs": "many"}, r"encoder.epochs: .*\(got 'many'\)"),
        ({"seed.low": 1}, "no setting 'seed.low'"),
    ],
)
def test_overrides_that_fit_nothing_are_refused(overrides: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Config().with_overrides(overrides)


def test_override_texts_are_read_as_yaml() -> None:
    values = parse_overrides(
        ["encoder.epochs=3", "features.windows_hours=[1, 6]", "data.min_rating=null", "split.test_from='2020-01-01'"],
        tracking_uri="sqlite:///a=b.db",
    )

    assert values == {
        "encoder.epochs": 3,
        "features.windows_hours": [1, 6],
        "data.min_rating": None,
        "split.test_from": "2020-01-01",
        "tracking.uri": "sqlite:///a=b.db",
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [("encoder.epochs", "is no setting; write SECTION.KEY=VALUE"), ("=3", "is no setting"), ("a=[1", "is no YAML")],
)
def test_override_texts_that_are_none_are_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_overrides([text])


def test_every_format_has_a_preset() -> None:
    assert {reader.name for reader in READERS} <= set(preset_names())


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_is_commented_and_changes_what_it_says(name: str) -> None:
    text = (preset_files.presets_folder() / f"{name}.yaml").read_text(encoding="utf-8")
    values = yaml.safe_load(text)

    assert text.startswith("# yaml-language-server: $schema=schema.json\n# ")
    assert preset(name).model_dump(mode="json", exclude_unset=True).keys() == values.keys()


def test_a_format_without_a_preset_gets_the_defaults() -> None:
    assert preset_for("something else") == Config()
    assert preset_for("mind") != Config()


def test_an_unknown_preset_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"no preset '\.\./pyproject'; there are amazon, default"):
        preset("../pyproject")


def test_missing_presets_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preset_files, "_PACKAGED", tmp_path / "a")
    monkeypatch.setattr(preset_files, "_CHECKOUT", tmp_path / "b")

    with pytest.raises(ConfigError, match="install recsys-engine again, or give a configuration of your own"):
        preset_names()


def test_a_given_configuration_goes_before_the_preset_and_overrides_before_both(tmp_path: Path) -> None:
    path = write(tmp_path, "encoder: {epochs: 7, max_length: 32}\n")

    assert choose_config(None, "mind", {"seed": 1}) == preset("mind").with_overrides({"seed": 1})
    assert choose_config(path, "mind", {"encoder.epochs": 2}).encoder.epochs == 2
    assert choose_config(str(path), "mind").encoder.max_length == 32
    assert choose_config(Config(), "mind") == Config()


def test_the_generated_files_are_up_to_date() -> None:
    stale = [
        path.name
        for path, text in (
            (REFERENCE_FILE, reference()),
            (DEFAULTS_FILE, defaults_yaml()),
            (SCHEMA_FILE, schema()),
        )
        if path.read_text(encoding="utf-8") != text
    ]

    assert not stale, f"{stale} differ from what recsys/config.py says; write them again with: make docs"


def test_the_preset_of_defaults_spells_out_every_key() -> None:
    values = yaml.safe_load(defaults_yaml())

    assert Config.from_values(values) == Config()
    assert values.keys() == Config().model_dump().keys()
    assert all(
        values[name].keys() == section.keys() for name, section in Config().model_dump().items() if name != "seed"
    )


def test_the_reference_names_every_key_with_its_sentence() -> None:
    text = reference()

    for name, field in Config.model_fields.items():
        section = getattr(Config(), name)
        if name == "seed":
            assert f"| `seed` | `42` | whole number ≥ 0 | {field.description} |" in text
            continue
        part = text.split(f"\n## {name}\n", 1)[1].split("\n## ", 1)[0]
        for key, inner in type(section).model_fields.items():
            assert f"| `{key}` |" in part
            assert inner.description is not None
            assert str(inner.description) in part


def test_the_schema_refuses_unknown_keys() -> None:
    values = json.loads(schema())

    assert values["additionalProperties"] is False
    assert all(section["additionalProperties"] is False for section in values["$defs"].values())
