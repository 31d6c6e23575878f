"""The configuration reference, the preset of all defaults and the JSON Schema, made from the configuration models.

`python -m recsys.config_reference` writes docs/configuration.md, configs/default.yaml and configs/schema.json of a
checkout.
"""

import json
import textwrap
import types
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from recsys.config import Config

ROOT: Final = Path(__file__).resolve().parent.parent
REFERENCE_FILE: Final = ROOT / "docs" / "configuration.md"
DEFAULTS_FILE: Final = ROOT / "configs" / "default.yaml"
SCHEMA_FILE: Final = ROOT / "configs" / "schema.json"

_SIGNS: Final[dict[type, tuple[str, str]]] = {Ge: ("ge", "≥"), Gt: ("gt", ">"), Le: ("le", "≤"), Lt: ("lt", "<")}
_WORDS: Final[dict[Any, str]] = {str: "text", int: "whole number", float: "number", bool: "true or false"}
_HEAD: Final = """# Configuration

Made from the models in `recsys/config.py` by `make docs`; do not edit it by hand.

A configuration is a YAML file with the sections below. Every key may be left out and then has its default. Unknown keys
and values out of bounds are refused, all of them in one message, before anything is read or written.

`configs/` holds one file per kind of data, each of which says why it departs from the defaults. `recsys train` takes
the one that fits the format it finds, unless `--config FILE` names another. Single values are set with
`--set SECTION.KEY=VALUE`, such as `--set encoder.epochs=1`; the value is read as YAML, and the option may be repeated.

`configs/schema.json` is the same as a JSON Schema. Editors check and complete with it when a file begins with

```
# yaml-language-server: $schema=schema.json
```
"""


_YAML_HEAD: Final = """# yaml-language-server: $schema=schema.json
# Every setting with its default. Made by `make docs` from recsys/config.py: copy it, keep what you change, drop the
# rest.
"""
_YAML_WIDTH: Final = 110


def reference() -> str:
    """Return the reference as Markdown: one table per section, keys in the order of the models."""
    top = ["## Top level", "", *_table_head(), *(_row(name, field) for name, field in _plain_fields()), ""]
    return "\n".join([_HEAD, *top, *(_section(name, model) for name, model in _sections())])


def defaults_yaml() -> str:
    """Return a configuration file that spells out every default, each key under its sentence."""
    lines = [_YAML_HEAD]
    for name, field in _plain_fields():
        lines += _yaml_key(name, field, indent="")
    for name, model in _sections():
        lines += ["", f"# {_summary(model)}", f"{name}:"]
        for key, field in model.model_fields.items():
            lines += _yaml_key(key, field, indent="  ")
    return "\n".join(lines) + "\n"


def schema() -> str:
    """Return the JSON Schema of a configuration file."""
    return json.dumps(Config.model_json_schema(), indent=2, ensure_ascii=False) + "\n"


def _sections() -> list[tuple[str, type[BaseModel]]]:
    annotations = [(name, field.annotation) for name, field in Config.model_fields.items()]
    return [(name, kind) for name, kind in annotations if isinstance(kind, type) and issubclass(kind, BaseModel)]


def _plain_fields() -> list[tuple[str, FieldInfo]]:
    sections = dict(_sections())
    return [(name, field) for name, field in Config.model_fields.items() if name not in sections]


def _summary(model: type[BaseModel]) -> str:
    return (model.__doc__ or "").strip().split("\n", 1)[0]


def _yaml_key(key: str, field: FieldInfo, *, indent: str) -> list[str]:
    comment = textwrap.wrap(str(field.description), _YAML_WIDTH - len(indent))
    return [*(f"{indent}# {line}" for line in comment), f"{indent}{key}: {_default_text(field)}"]


def _default_text(field: FieldInfo) -> str:
    """Return a field's default as JSON, which is YAML too."""
    default = field.get_default(call_default_factory=True, validated_data={})
    return json.dumps(default, ensure_ascii=False, default=list)


def _section(name: str, model: type[BaseModel]) -> str:
    rows = [_row(key, field) for key, field in model.model_fields.items()]
    return "\n".join([f"## {name}", "", _summary(model), "", *_table_head(), *rows, ""])


def _table_head() -> list[str]:
    return ["| key | default | allowed | meaning |", "|---|---|---|---|"]


def _row(key: str, field: FieldInfo) -> str:
    allowed = _limits(_type_text(field.annotation), field.metadata)
    return f"| `{key}` | `{_default_text(field)}` | {allowed} | {field.description} |"


def _type_text(annotation: Any) -> str:
    """Return a type in words, with its bounds."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _limits(_type_text(inner[0]), inner[1:])
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in inner)
    if origin in (Union, types.UnionType):
        return " or ".join("null" if part is type(None) else _type_text(part) for part in inner)
    if origin is tuple:
        return f"list of {_type_text(inner[0])}"
    if origin is dict:
        return f"{_type_text(inner[0])} → {_type_text(inner[1])}"
    return _WORDS.get(annotation, str(annotation))


def _limits(text: str, metadata: Any) -> str:
    """Return a type's words with the bounds that stand beside it."""
    bounds = [
        f"{sign} {getattr(limit, name):g}"
        for limit in metadata
        for kind, (name, sign) in _SIGNS.items()
        if isinstance(limit, kind)
    ]
    return " ".join([text, *([", ".join(bounds)] if bounds else [])])


def main() -> None:
    """Write the three files."""
    REFERENCE_FILE.write_text(reference(), encoding="utf-8")
    DEFAULTS_FILE.write_text(defaults_yaml(), encoding="utf-8")
    SCHEMA_FILE.write_text(schema(), encoding="utf-8")


if __name__ == "__main__":
    main()
