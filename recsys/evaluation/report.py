"""The result of one suite: figures with intervals, as JSON, as a table, and as bars."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from recsys.evaluation.intervals import Interval, bootstrap_means, paired_difference
from recsys.evaluation.metrics import EvaluationError, PerRequestMetrics

Table = dict[str, dict[str, Interval]]

FULL_SYSTEM: Final = "full"
_KEYS: Final = (
    "suite",
    "split",
    "seed",
    "systems",
    "differences",
    "slices",
    "seconds",
    "peak_rss_mb",
    "environment",
)
_MAX_COLUMNS: Final = 4
_NO_INTERVAL: Final = Interval(math.nan, math.nan, math.nan, 0)
_HIGHLIGHT, _PLAIN = "#c2410c", "#94a3b8"


@dataclass(frozen=True)
class SuiteReport:
    """What one run of a suite measured.

    systems: system → metric → mean over requests, with bounds.
    differences: other system → metric → mean of the full system minus that system over the same requests.
    slices: system → slice → metric; intervals of slices with few requests have their `n` only.
    seconds, peak_rss_mb: of the whole run. environment: versions, processor, data, whatever explains the figures.

    In JSON an interval is `{"mean", "lo", "hi"}`, in slices `{"mean", "lo", "hi", "n"}` or `{"n"}`; a bound that does
    not exist is null. What is read back has `n` = 0 outside the slices.
    """

    suite: str
    split: str
    seed: int
    systems: Table
    differences: Table = field(default_factory=dict)
    slices: dict[str, Table] = field(default_factory=dict)
    seconds: float = 0.0
    peak_rss_mb: float = 0.0
    environment: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values, keys in a fixed order."""
        values: dict[str, Any] = {key: getattr(self, key) for key in _KEYS}
        values["systems"] = _table_values(self.systems, with_n=False)
        values["differences"] = _table_values(self.differences, with_n=False)
        values["slices"] = {system: _table_values(table, with_n=True) for system, table in self.slices.items()}
        return values

    def write_json(self, path: Path) -> None:
        """Write the report, whole or not at all; missing folders are made.

        Raises:
            EvaluationError: `environment` holds something that JSON cannot.
        """
        try:
            text = json.dumps(self.to_dict(), indent=2, allow_nan=False, ensure_ascii=False)
        except (TypeError, ValueError) as error:
            raise EvaluationError(
                f"the report of {self.suite} cannot be written as JSON: {error}; keep to strings, finite numbers, "
                "lists and dicts"
            ) from error
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(path.name + ".part")
        beside.write_text(text + "\n", encoding="utf-8")
        os.replace(beside, path)

    @classmethod
    def read_json(cls, path: Path) -> "SuiteReport":
        """Read a report that `write_json` wrote.

        Raises:
            EvaluationError: the file is missing, is no JSON, or is no report; the message says which part.
        """
        remedy = "write it again with benchmarks/quality.py"
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise EvaluationError(f"no report at {path}; {remedy}") from None
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise EvaluationError(f"{path} cannot be read as JSON: {error}; {remedy}") from error
        if not isinstance(values, dict) or (missing := [key for key in _KEYS if key not in values]):
            lacking = missing if isinstance(values, dict) else list(_KEYS)
            raise EvaluationError(f"{path} is no report: {len(lacking)} keys are missing, {lacking[:3]}; {remedy}")
        known = {key: values[key] for key in _KEYS}
        try:
            known["systems"] = _read_table(values["systems"])
            known["differences"] = _read_table(values["differences"])
            known["slices"] = {system: _read_table(table) for system, table in values["slices"].items()}
        except (AttributeError, TypeError, ValueError, KeyError) as error:
            raise EvaluationError(f"{path} has an interval that is none ({error}); {remedy}") from error
        return cls(**known)

    def metric_names(self) -> list[str]:
        """Return the metrics of all systems in order of first appearance."""
        return list(dict.fromkeys(metric for table in self.systems.values() for metric in table))

    def to_markdown_table(self, metrics: Sequence[str] | None = None) -> str:
        """Return a Markdown table with one row per system, `mean [lo, hi]` per metric, `full` in bold.

        metrics: columns, None for all. A dash where a system lacks one.

        Raises:
            EvaluationError: no system has one of the metrics.
        """
        columns = self._known_metrics(metrics)
        lines = [f"| system | {' | '.join(columns)} |", "|---|" + "---|" * len(columns)]
        for system, table in self.systems.items():
            cells = [system.replace("|", "\\|"), *(str(table[m]) if m in table else "–" for m in columns)]
            lines.append(f"| {' | '.join(f'**{c}**' if system == FULL_SYSTEM else c for c in cells)} |")
        return "\n".join(lines) + "\n"

    def plot(self, path: Path, metrics: Sequence[str] | None = None) -> None:
        """Draw one panel of bars with intervals per metric, the full system highlighted, and save it (PNG).

        metrics: panels, None for all; errors as in `to_markdown_table`. Missing folders are made.
        """
        names = self._known_metrics(metrics)
        n_columns = min(len(names), _MAX_COLUMNS)
        n_rows = math.ceil(len(names) / n_columns)
        size = (1.6 + 2.6 * n_columns, 0.7 + n_rows * (0.9 + 0.3 * len(self.systems)))
        figure = Figure(figsize=size, layout="constrained")
        canvas = FigureCanvasAgg(figure)
        panels = figure.subplots(n_rows, n_columns, squeeze=False, sharey=True).ravel()
        for panel, name in zip(panels, names, strict=False):
            _draw_bars(panel, name, {system: table.get(name, _NO_INTERVAL) for system, table in self.systems.items()})
        for panel in panels[len(names) :]:
            panel.set_axis_off()
        panels[0].set_yticks(range(len(self.systems)), [system.replace("$", r"\$") for system in self.systems])
        panels[0].invert_yaxis()  # shared: the first system stands at the top of every panel
        figure.suptitle(f"{self.suite} · {self.split} · seed {self.seed}".replace("$", r"\$"), fontsize="medium")
        path.parent.mkdir(parents=True, exist_ok=True)
        canvas.print_png(path)

    def _known_metrics(self, metrics: Sequence[str] | None) -> list[str]:
        known = self.metric_names()
        if unknown := [metric for metric in metrics or () if metric not in known]:
            raise EvaluationError(f"{len(unknown)} metrics are in no system, {unknown[:3]}; the report has {known}")
        if not (names := list(metrics or known)):
            raise EvaluationError(f"the report of {self.suite} holds no metric; measure at least one system")
        return names


def compare_systems(
    results: Mapping[str, PerRequestMetrics],
    *,
    n_bootstrap: int = 1000,
    confidence: float = 0.95,
    rng: np.random.Generator,
) -> tuple[Table, Table]:
    """Return the `systems` and the `differences` of a report, intervals over users.

    Differences are those of the system named `full` to each other one, over the requests both have a value for; there
    are none where no system has that name. All systems see the same resamples.

    Raises:
        EvaluationError: systems were measured on other requests than the first, or have none.
    """
    clusters = _shared_clusters(results)
    seed = int(rng.integers(2**63))
    arrays = {name: result.arrays() for name, result in results.items()}
    systems = {
        name: bootstrap_means(
            metrics,
            clusters=clusters,
            n_bootstrap=n_bootstrap,
            confidence=confidence,
            rng=np.random.default_rng(seed),
        )
        for name, metrics in arrays.items()
    }
    differences: Table = {}
    others = [name for name in results if name != FULL_SYSTEM] if FULL_SYSTEM in results else []
    for name in others:
        differences[name] = {
            metric: paired_difference(
                values,
                arrays[name][metric],
                clusters=clusters,
                n_bootstrap=n_bootstrap,
                confidence=confidence,
                rng=np.random.default_rng(seed),
                undefined="skip",
            )
            for metric, values in arrays[FULL_SYSTEM].items()
            if metric in arrays[name] and systems[name][metric].n
        }
    return systems, differences


def _shared_clusters(results: Mapping[str, PerRequestMetrics]) -> npt.NDArray[np.int64]:
    if not results:
        raise EvaluationError("there are no systems to compare; measure at least one")
    first, reference = next(iter(results.items()))
    if not len(reference):
        raise EvaluationError(f"{first} has no requests; check that the test window holds any, or widen it")
    for name, result in results.items():
        if list(result.user_ids) != list(reference.user_ids):
            raise EvaluationError(
                f"{name} has {len(result)} requests that are not the {len(reference)} of {first}; measure all systems "
                "on the same requests in the same order"
            )
    return reference.clusters()


def _draw_bars(panel: Axes, metric: str, intervals: Mapping[str, Interval]) -> None:
    places = np.arange(len(intervals))
    means = np.array([interval.mean for interval in intervals.values()])
    arms = np.array([(one.mean - one.lo, one.hi - one.mean) for one in intervals.values()]).T  # (2, n_systems)
    arms = np.maximum(np.nan_to_num(arms), 0.0)  # no arms where there are no bounds
    colours = [_HIGHLIGHT if system == FULL_SYSTEM else _PLAIN for system in intervals]
    panel.barh(places, np.nan_to_num(means), xerr=arms, color=colours, height=0.7, error_kw={"lw": 1, "capsize": 2})
    panel.set_title(metric, fontsize="medium")
    panel.tick_params(labelsize="small")
    panel.locator_params(axis="x", nbins=5)
    panel.spines[["top", "right"]].set_visible(False)


def _table_values(table: Table, *, with_n: bool) -> dict[str, Any]:
    return {
        row: {metric: _interval_values(interval, with_n=with_n) for metric, interval in metrics.items()}
        for row, metrics in table.items()
    }


def _interval_values(interval: Interval, *, with_n: bool) -> dict[str, float | int | None]:
    if with_n and math.isnan(interval.mean):
        return {"n": interval.n}
    bounds = {"mean": interval.mean, "lo": interval.lo, "hi": interval.hi}
    values: dict[str, float | int | None] = {
        key: float(value) if math.isfinite(value) else None for key, value in bounds.items()
    }
    return values | {"n": interval.n} if with_n else values


def _read_table(table: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Table:
    return {
        row: {metric: _read_interval(values) for metric, values in metrics.items()} for row, metrics in table.items()
    }


def _read_interval(values: Mapping[str, Any]) -> Interval:
    if values.keys() == {"n"}:
        return Interval(math.nan, math.nan, math.nan, int(values["n"]))
    mean, lo, hi = (math.nan if values[key] is None else float(values[key]) for key in ("mean", "lo", "hi"))
    return Interval(mean, lo, hi, int(values.get("n", 0)))
