"""The text of an item, built in one way for training and for serving."""

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import polars as pl

from recsys.schema import Col

_TAG: Final = re.compile(r"</?[A-Za-z][^<>]*>")
# What opens something whose content is no text, and what closes it.
_HIDDEN: Final = {"<!--": re.compile("-->")} | {
    f"<{name}": re.compile(rf"</{name}\s*>", re.IGNORECASE) for name in ("script", "style")
}
_OPENING: Final = re.compile(r"<!--|<script\b|<style\b", re.IGNORECASE)
_SPACE: Final = re.compile(r"\s+")
_STANDARD: Final = frozenset({Col.ITEM_ID, Col.TITLE, Col.DESCRIPTION, Col.CATEGORIES, Col.CREATED_AT})
# Fields whose values speak for themselves stand without a label.
_UNLABELLED: Final = frozenset({Col.TITLE, Col.DESCRIPTION})


def _without_hidden(text: str) -> str:
    """Return `text` without comments, scripts and style sheets, in one pass; what is never closed stays."""
    kept: list[str] = []
    place = 0
    unclosed: set[str] = set()
    for opening in _OPENING.finditer(text):
        kind = opening.group().lower()
        if opening.start() < place or kind in unclosed:
            continue
        closing = _HIDDEN[kind].search(text, opening.end())
        if closing is None:
            unclosed.add(kind)
            continue
        kept.append(text[place : opening.start()])
        place = closing.end()
    kept.append(text[place:])
    return " ".join(kept)


def clean_text(text: str) -> str:
    """Return `text` without HTML tags, with entities resolved and white space folded."""
    if "<" in text or "&" in text:
        text = html.unescape(_TAG.sub(" ", _without_hidden(text)))
    return _SPACE.sub(" ", text).strip()


def _field_text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, Iterable):
        return ", ".join(clean_text(str(part)) for part in value if part is not None)
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def item_text(item: Mapping[str, Any], fields: Sequence[str]) -> str:
    """Return one item's text: the named fields in order, each as a sentence, labelled unless title or description.

    `*` in `fields` stands for every further attribute that holds text. Missing and empty fields are left out.
    """
    named = [name for name in fields if name != "*"]
    rest = [
        name
        for name, value in item.items()
        if name not in _STANDARD and name not in named and isinstance(value, str | list | tuple)
    ]
    parts: list[str] = []
    for field in fields:
        for name in rest if field == "*" else [field]:
            text = _field_text(item.get(name))
            if text:
                parts.append(text if name in _UNLABELLED else f"{name.replace('_', ' ')}: {text}")
    return ". ".join(part.rstrip(".") for part in parts)


def item_texts(items: pl.DataFrame, fields: Sequence[str]) -> list[str]:
    """Return the text of every row of an items table, in row order; see `item_text`."""
    return [item_text(row, fields) for row in items.iter_rows(named=True)]
