"""What a data set holds, in numbers, and what a validation found."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import polars as pl

from recsys.datasets.check_behaviour import NOTE_DUPLICATES, NOTE_UNKNOWN_CLICKS, note_unknown
from recsys.datasets.dataset import Dataset
from recsys.datasets.faults import Fault
from recsys.schema import Col

_SCRIPTS: Final = (
    "Latin",
    "Han",
    "Hiragana",
    "Katakana",
    "Hangul",
    "Cyrillic",
    "Greek",
    "Arabic",
    "Hebrew",
    "Devanagari",
    "Bengali",
    "Tamil",
    "Thai",
)
_MIN_SCRIPT_SHARE: Final = 0.01
_SAMPLED_ITEMS: Final = 20_000


@dataclass(frozen=True)
class DatasetSummary:
    """Counts and shares of a data set; shares lie in 0..1 and are None where there is nothing to divide by.

    duplicates: exactly repeated interactions that were dropped. clicks_without_item: interactions and clicked
    impressions that were dropped because the items table lacks their item. scripts: share of the catalogue's letters
    by script, a rough hint at its languages. first, last: ISO 8601, UTC.
    """

    name: str
    format: str
    users: int
    items: int
    items_without_behaviour: int
    interactions: int
    events: dict[str, int]
    impressions: int
    requests: int
    click_through_rate: float | None
    first: str | None
    last: str | None
    title_share: float | None
    description_share: float | None
    duplicates: int
    clicks_without_item: int
    scripts: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Return the summary as plain values for JSON."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Return the summary as aligned lines of text."""
        events = ", ".join(f"{kind} {count:,}" for kind, count in self.events.items()) or "none"
        scripts = ", ".join(f"{script} {share:.0%}" for script, share in self.scripts.items()) or "no text"
        text = f"{_percent(self.title_share)} with a title, {_percent(self.description_share)} with a description"
        shown = "none"
        if self.impressions:
            shown = f"{self.impressions:,} in {self.requests:,} requests, {_percent(self.click_through_rate)} clicked"
        facts = {
            "data": f"{self.name} (format {self.format})",
            "users": f"{self.users:,}",
            "items": f"{self.items:,}, {self.items_without_behaviour:,} of them without behaviour",
            "interactions": f"{self.interactions:,}: {events}",
            "impressions": shown,
            "time span": f"{self.first} to {self.last}" if self.first else "none",
            "item text": text,
            "scripts": scripts,
            "duplicates": f"{self.duplicates:,} repeated interactions dropped",
            "unknown items": f"{self.clicks_without_item:,} interactions and clicks dropped",
        }
        width = max(map(len, facts))
        return [f"{what:<{width}}  {fact}" for what, fact in facts.items()]


@dataclass(frozen=True)
class ValidationReport:
    """The outcome of a validation: the summary of a sound data set, or the faults of one that was refused.

    faults: the first few of each kind; `n_faults` counts every row. notes: what was tolerated, with counts.
    """

    folder: str
    format: str
    faults: tuple[Fault, ...]
    n_faults: int
    notes: Mapping[str, int]
    summary: DatasetSummary | None

    @property
    def is_sound(self) -> bool:
        """Whether the data can be trained on."""
        return not self.faults

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values for JSON."""
        return {
            "folder": self.folder,
            "format": self.format,
            "is_sound": self.is_sound,
            "n_faults": self.n_faults,
            "faults": [asdict(fault) for fault in self.faults],
            "notes": dict(self.notes),
            "summary": self.summary.to_dict() if self.summary is not None else None,
        }

    def lines(self) -> list[str]:
        """Return the report as lines of text: the summary, what was tolerated, and every fault."""
        lines = self.summary.lines() if self.summary is not None else [f"{self.folder} (format {self.format})"]
        if self.notes:
            lines += ["", "tolerated:", *(f"  {count:,} {what}" for what, count in self.notes.items())]
        if self.faults:
            lines += ["", f"{self.n_faults:,} fault(s):", *(f"  {fault}" for fault in self.faults)]
            if self.n_faults > len(self.faults):
                lines.append(f"  (and {self.n_faults - len(self.faults):,} more of the same kinds)")
        return lines


def summarise(dataset: Dataset) -> DatasetSummary:
    """Return the summary of a loaded data set."""
    interactions, impressions, items = dataset.interactions, dataset.impressions, dataset.items
    seen = interactions.select(Col.ITEM_ID).unique()
    events = interactions.group_by(Col.EVENT).len().sort("len", Col.EVENT, descending=[True, False])
    n_shown = impressions.height if impressions is not None else 0
    times = [table[Col.TIMESTAMP] for table in (interactions, impressions) if table is not None and table.height]
    span = pl.concat(times) if times else pl.Series(dtype=pl.Datetime("us", "UTC"))
    lost = (note_unknown("interactions"), NOTE_UNKNOWN_CLICKS)
    return DatasetSummary(
        name=dataset.name,
        format=dataset.format,
        users=dataset.n_users,
        items=items.height,
        items_without_behaviour=items.join(seen, on=Col.ITEM_ID, how="anti").height,
        interactions=interactions.height,
        events=dict(events.iter_rows()),
        impressions=n_shown,
        requests=impressions[Col.REQUEST_ID].n_unique() if impressions is not None else 0,
        click_through_rate=float(impressions[Col.CLICKED].sum()) / n_shown
        if impressions is not None and n_shown
        else None,
        first=_day_time(span, earliest=True),
        last=_day_time(span, earliest=False),
        title_share=_filled(items, Col.TITLE),
        description_share=_filled(items, Col.DESCRIPTION),
        duplicates=dataset.notes.get(NOTE_DUPLICATES, 0),
        clicks_without_item=sum(dataset.notes.get(note, 0) for note in lost),
        scripts=script_shares(items),
    )


def script_shares(items: pl.DataFrame) -> dict[str, float]:
    """Return the share of each script among the letters of titles and descriptions, largest first.

    Scripts below one per cent count as `other`. Of a large catalogue the first 20,000 items are read.
    """
    columns = [name for name in (Col.TITLE, Col.DESCRIPTION) if name in items.columns]
    if not columns:
        return {}
    texts = pl.concat([items[name].head(_SAMPLED_ITEMS).cast(pl.String).rename("text") for name in columns])
    text = pl.col("text").str
    counted = texts.to_frame().select(
        text.count_matches(r"\p{L}").sum().alias("letters"),
        *(text.count_matches(rf"\p{{{script}}}").sum().alias(script) for script in _SCRIPTS),
    )
    counts = counted.row(0, named=True)
    letters = counts.pop("letters")
    if not letters:
        return {}
    shares = {
        script: min(count / letters, 1.0) for script, count in counts.items() if count / letters >= _MIN_SCRIPT_SHARE
    }
    rest = 1.0 - sum(shares.values())
    if rest >= _MIN_SCRIPT_SHARE:
        shares["other"] = rest
    return dict(sorted(shares.items(), key=lambda pair: -pair[1]))


def _filled(items: pl.DataFrame, column: str) -> float | None:
    if column not in items.columns or not items.height:
        return None if not items.height else 0.0
    return 1.0 - items[column].null_count() / items.height


def _day_time(span: pl.Series, *, earliest: bool) -> str | None:
    if span.is_empty():
        return None
    ends = span.sort()
    return ends.dt.to_string("%Y-%m-%dT%H:%M:%SZ")[0 if earliest else -1]


def _percent(share: float | None) -> str:
    return "none" if share is None else f"{share:.1%}"
