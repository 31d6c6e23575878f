"""What is wrong with a request, in words: which field, what stood there, what is expected."""

import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError

from recsys.errors import RequestError

# Parts of a fault's place that name the branch of a union, not a field.
UNION_TAGS: Final = frozenset({"<id>", "<object>", "<list>", "<flag>", "<number>"})

_MAX_SHOWN: Final = 80
_MAX_FIELD: Final = 200

_short = reprlib.Repr()
_short.maxstring = _short.maxother = _short.maxlong = _MAX_SHOWN
_short.maxlevel = 2


@dataclass(frozen=True)
class Fault:
    """The first thing that is wrong with a request. `field` is a dotted path, None when it is the body as a whole."""

    field: str | None
    message: str


def printable(text: str) -> str:
    """Return `text` in a form that every encoder takes: lone surrogates and control characters escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def shown(value: Any) -> str:
    """Return a short, printable representation of any value that came in."""
    text = printable(_short.repr(value))
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"


def _item_count(noun: str, verb: str) -> Callable[[Mapping[str, Any]], str]:
    def say(ctx: Mapping[str, Any]) -> str:
        bound = ctx["max_length" if verb == "most" else "min_length"]
        return f"holds {ctx.get('actual_length', 'too many')} {noun}; at {verb} {bound} are allowed"

    return say


_SENTENCES: Final[Mapping[str, Callable[[Mapping[str, Any]], str]]] = {
    "missing": lambda ctx: "is required",
    "extra_forbidden": lambda ctx: "is not a field of this request; remove it or correct its name",
    "model_type": lambda ctx: "must be a JSON object",
    "model_attributes_type": lambda ctx: "must be a JSON object",
    "dict_type": lambda ctx: "must be a JSON object",
    "list_type": lambda ctx: "must be a list",
    "string_type": lambda ctx: "must be a string",
    "int_type": lambda ctx: "must be a whole number, written without quotes",
    "int_from_float": lambda ctx: "must be a whole number",
    "float_type": lambda ctx: "must be a number, written without quotes",
    "bool_type": lambda ctx: "must be true or false",
    "finite_number": lambda ctx: "must be a finite number",
    "greater_than_equal": lambda ctx: f"must be at least {ctx['ge']}",
    "less_than_equal": lambda ctx: f"must be at most {ctx['le']}",
    "string_too_short": lambda ctx: "must not be empty",
    "string_too_long": lambda ctx: f"must have at most {ctx['max_length']} characters",
    "string_pattern_mismatch": lambda ctx: "holds a control character; only printable text is allowed",
    "string_unicode": lambda ctx: "holds a lone surrogate, which is no character; send valid Unicode",
    "too_long": _item_count("entries", "most"),
    "too_short": _item_count("entries", "least"),
    "union_tag_not_found": lambda ctx: "must be an item id or an object with an item_id",
}


def field_of(loc: Sequence[int | str]) -> str | None:
    """Return a place as a dotted path such as `events.3.item_id`; None for the whole."""
    parts = [str(part) for part in loc if part not in UNION_TAGS]
    path = printable(".".join(parts))
    return (path if len(path) <= _MAX_FIELD else f"{path[:_MAX_FIELD]}…") or None


def first_fault(errors: Sequence[Mapping[str, Any]], *, skip: int = 0) -> Fault:
    """Return the first of pydantic's errors in words, with the count of the others.

    Args:
        errors: at least one, as `ValidationError.errors()` gives them.
        skip: leading parts of each place that are not part of the request (`body`).
    """
    error = errors[0]
    field = field_of(error["loc"][skip:])
    kind = error["type"]
    say = _SENTENCES.get(kind)
    sentence = say(error.get("ctx", {})) if say else printable(str(error["msg"]))
    got = "" if kind == "missing" else f" (got {shown(error['input'])})"
    more = f"; {len(errors) - 1} more fault(s) follow" if len(errors) > 1 else ""
    return Fault(field, f"{field or 'the body'} {sentence}{got}{more}")


def as_request_error(error: ValidationError) -> RequestError:
    """Return the error that a caller of the engine, who knows nothing of pydantic, can read."""
    fault = first_fault(error.errors(include_url=False))
    return RequestError(fault.message, field=fault.field or "")
