"""What a model card is written from, and how it words it."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from recsys.config import Config
from recsys.datasets.dataset import Dataset
from recsys.datasets.encoded import EncodedData
from recsys.evaluation.intervals import Interval
from recsys.evaluation.report import SuiteReport
from recsys.mlflow_store import shown_uri
from recsys.splits import Split

# Metrics by which higher is better; others only describe the lists.
ACCURACY: Final = frozenset({"auc", "mrr", "ndcg", "graded_ndcg", "hr", "recall", "precision", "map"})

_HEADLINES: Final = ("auc", "ndcg@10", "hr@10", "recall@10", "mrr")
_MAX_NAMED: Final = 8


@dataclass(frozen=True)
class CardFacts:
    """What a card is written from.

    report: what was measured on the test, any metrics. encoder: what the text stage reports: `base`, `kind` (`none`
    where there is no encoder), `curve`, `seconds` and `stopped_because`, and where they are there `objective` and
    `mean_cosine`, between an item's embeddings before and after. signals: what `training.signals` reports, empty where
    it decided nothing. sequence: by the models that each is part of, what the fits of the sequence model report,
    `epochs`, `stopped_because`, `time_was_short` and `seconds`; empty where there is none. n_requests: how many were
    measured. run_id: the MLflow run. environment: versions.
    """

    dataset: Dataset
    data: EncodedData
    split: Split
    config: Config
    report: SuiteReport
    encoder: Mapping[str, Any]
    n_requests: int
    run_id: str
    model_name: str
    fingerprint: str
    environment: Mapping[str, str] = field(default_factory=dict)
    signals: Mapping[str, Any] = field(default_factory=dict)
    sequence: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def metrics(self) -> list[str]:
        return self.report.metric_names()

    @property
    def has_encoder(self) -> bool:
        return bool(self.encoder["kind"] != "none")

    @property
    def headline(self) -> str | None:
        """The metric that is told first; None where nothing was measured."""
        names = self.metrics
        return next((name for name in (*_HEADLINES, *names) if name in names), None)


def hurried_by_time(facts: CardFacts) -> dict[str, str]:
    """Return what had too little time to be learned in full, in words, and the settings that give it more."""
    hurried = {}
    if facts.encoder["stopped_because"] == "time":
        hurried["the text encoder"] = "encoder.max_train_seconds"
    if short := [name for name, fit in facts.sequence.items() if fit["time_was_short"]]:
        hurried[f"the sequence model ({', '.join(short)})"] = "sequence.max_train_seconds"
    return hurried


def counts_line(facts: CardFacts) -> str:
    """Return the sizes of the tables in words."""
    dataset = facts.dataset
    sizes = [f"{dataset.items.height:,} items", f"{dataset.n_users:,} users"]
    sizes.append(f"{dataset.interactions.height:,} interactions")
    if dataset.impressions is not None:
        sizes.append(f"{dataset.impressions.height:,} impressions")
    return ", ".join(sizes)


def held_out(facts: CardFacts) -> list[tuple[int, float]]:
    """Return the encoder's held-out loss as (step, loss), that of step 0 being the one before any tuning."""
    points = [(int(point["step"]), point.get("valid_loss")) for point in facts.encoder.get("curve", ())]
    return [(step, float(loss)) for step, loss in points if loss is not None]


def non_defaults(config: Config) -> dict[str, tuple[str, str]]:
    """Return the settings that differ from their defaults, dotted key → (value, default); passwords are left out."""
    given, default = (_flat(each.model_dump(mode="json")) for each in (config, Config()))
    changed = [key for key in dict.fromkeys([*given, *default]) if given.get(key) != default.get(key)]
    return {key: (shown_uri(given.get(key, "–")), default.get(key, "–")) for key in changed}


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested settings under dotted keys, values as YAML reads them."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = json.dumps(value, ensure_ascii=False)
    return flat


def named(names: Sequence[str]) -> str:
    """Return names in a row, the first eight and how many more there are."""
    more = len(names) - _MAX_NAMED
    return ", ".join(names[:_MAX_NAMED]) + (f" and {more} more" if more > 0 else "")


def size_of(table: Mapping[str, Interval]) -> int:
    """Return how many requests a slice has."""
    return max((interval.n for interval in table.values()), default=0)


def cell(interval: Interval | None) -> str:
    """Return an interval for a table, a dash where there is none."""
    return "–" if interval is None or math.isnan(interval.mean) else str(interval)


def signed(gap: Interval) -> str:
    """Return a difference with its sign and bounds."""
    if math.isnan(gap.mean):
        return "–"
    return f"{gap.mean:+.3f}" + ("" if math.isnan(gap.lo) else f" [{gap.lo:+.3f}, {gap.hi:+.3f}]")


def verdict(gap: Interval) -> str:
    """Return what a difference shows."""
    if math.isnan(gap.lo):
        return "with too few users for an interval"
    return "an interval that excludes zero" if gap.excludes_zero else "an interval that holds zero"


def days_between(begin_us: int, end_us: int) -> float:
    """Return the days from one moment to another."""
    return (end_us - begin_us) / 86_400_000_000


def first_us(facts: CardFacts) -> int | None:
    """Return when the oldest feedback happened, None where there is none."""
    return min((int(times.min()) for times in _times(facts) if len(times)), default=None)


def last_us(facts: CardFacts) -> int | None:
    """Return when the newest feedback happened, None where there is none."""
    return max((int(times.max()) for times in _times(facts) if len(times)), default=None)


def _times(facts: CardFacts) -> list[Any]:
    shown = facts.data.impressions
    return [facts.data.log.timestamp_us, *([] if shown is None else [shown.timestamp_us])]


def moment(time_us: int | None) -> str:
    """Return a moment to the minute, empty for None."""
    return "" if time_us is None else f"{datetime.fromtimestamp(time_us / 1_000_000, UTC):%Y-%m-%d %H:%M} UTC"


def table_lines(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Iterator[str]:
    """Yield the lines of a Markdown table."""

    def line(cells: Sequence[object]) -> str:
        return "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    yield line(columns)
    yield "|" + "---|" * len(columns)
    yield from (line(row) for row in rows)
