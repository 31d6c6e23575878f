"""Pictures of a training: curves, metrics, importance, popularity and embeddings; every function returns a Figure."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font

FULL_SYSTEM: Final = "full"
TOP_FEATURES: Final = 20
TOP_CATEGORIES: Final = 8

_HIGHLIGHT, _PLAIN, _FAINT = "#c2410c", "#94a3b8", "#d4d8de"
# Okabe and Ito's colours, told apart by the colour-blind too; black and yellow, which vanish on white, are left out.
_COLOURS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#7f3c8d", "#5f6b2f")
_DPI: Final = 120
_MAX_PANELS_IN_ROW: Final = 3
_MAX_POINTS: Final = 8_000

Points = Sequence[Mapping[str, float | None]]
Float = npt.NDArray[np.floating[Any]]
Integers = npt.NDArray[np.integer[Any]]


def learning_curves(encoder: Points, ranker: Points) -> Figure:
    """Draw how encoder and ranker learned: losses in one panel, other metrics in another, the best value marked.

    Args:
        encoder: one mapping per evaluation, with its `step` and values by name, such as
            {"step": 40, "train_loss": 2.1, "valid_loss": 2.3}; null and absent values leave gaps. Names that contain
            `loss` are better when low. May be empty, as where nothing was fine-tuned.
        ranker: the same, `step` being the number of trees.
    """
    panels: list[tuple[str, str, dict[str, tuple[Float, Float]]]] = []
    for title, unit, points in (("encoder", "step", encoder), ("ranker", "trees", ranker)):
        series = _series(points)
        for what in ("loss", "metric"):
            chosen = {name: xy for name, xy in series.items() if ("loss" in name) == (what == "loss")}
            if chosen:
                panels.append((f"{title}: {what}", unit, chosen))
    figure = _new_figure(4.6 * max(len(panels), 1) + 0.4, 3.6)
    if not panels:
        figure.text(0.5, 0.5, "no learning curve was recorded", ha="center", va="center")
        return figure
    for axes, (title, unit, series) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for (name, (x, y)), colour in zip(series.items(), _COLOURS * len(series), strict=False):
            axes.plot(x, y, color=colour, label=_text(name), marker="." if len(x) <= 30 else None, linewidth=1.6)
            if not name.startswith("train"):
                _mark_best(axes, x, y, low_is_best="loss" in name, colour=colour)
        axes.set(title=title, xlabel=unit, ylabel=title.rpartition(": ")[2])
        axes.margins(y=0.12)
        axes.legend(frameon=False, fontsize="small")
        _tidy(axes)
    return figure


def metric_bars(systems: Mapping[str, Mapping[str, Mapping[str, float | None]]]) -> Figure:
    """Draw one panel per metric: a bar with its interval for every system, best first, `full` highlighted.

    Args:
        systems: system → metric → {"mean", "lo", "hi"}, as in `SuiteReport.to_dict()["systems"]`; bounds may be null.

    Raises:
        ValueError: no system has a metric.
    """
    metrics = list(dict.fromkeys(metric for table in systems.values() for metric in table))
    if not metrics:
        raise ValueError(f"none of {len(systems)} systems has a metric to draw; measure at least one")
    n_columns = min(len(metrics), _MAX_PANELS_IN_ROW)
    n_rows = -(-len(metrics) // n_columns)
    figure = _new_figure(1.8 + 3.2 * n_columns, n_rows * (1.0 + 0.32 * len(systems)))
    panels = figure.subplots(n_rows, n_columns, squeeze=False, sharey=True).ravel()
    first = metrics[0]
    names = sorted(systems, key=lambda name: _value(systems[name], first, "mean", 0.0))  # bars grow from the bottom up
    for axes, metric in zip(panels, metrics, strict=False):
        _metric_panel(axes, metric, {name: systems[name] for name in names})
    for axes in panels[len(metrics) :]:
        axes.set_axis_off()
    panels[0].set_yticks(range(len(names)), [_text(name) for name in names])
    for label, name in zip(panels[0].get_yticklabels(), names, strict=True):
        label.set_fontweight("bold" if name == FULL_SYSTEM else "normal")
    return figure


def feature_importance(names: Sequence[str], groups: Sequence[str], gain: Float) -> Figure:
    """Draw the share of the ranker's gain by feature group, and beside it the 20 strongest features.

    Args:
        names, groups: of each feature, `(n_features,)`. gain: total gain of each, float `(n_features,)`, at least 0.

    Raises:
        ValueError: the three differ in length, or are empty.
    """
    if not len(names) == len(groups) == len(gain) or not len(names):
        raise ValueError(
            f"{len(names)} feature names, {len(groups)} groups and {len(gain)} gains; give one group and gain per name"
        )
    share = np.asarray(gain, np.float64) / max(float(np.sum(gain)), np.finfo(np.float64).tiny)
    by_group = dict.fromkeys(groups, 0.0)
    for group, value in zip(groups, share, strict=True):
        by_group[group] += float(value)
    ordered = sorted(by_group, key=lambda group: by_group[group])
    colour = {group: _COLOURS[i % len(_COLOURS)] for i, group in enumerate(reversed(ordered))}
    top = np.argsort(-share, kind="stable")[:TOP_FEATURES][::-1]
    figure = _new_figure(11.0, max(2.6, 0.9 + 0.24 * len(top)))
    left, right = figure.subplots(1, 2, width_ratios=(1.0, 1.4))
    _share_bars(left, [_text(group) for group in ordered], [by_group[g] for g in ordered], [colour[g] for g in ordered])
    left.set(title="gain by feature group", xlabel="share of total gain")
    _share_bars(right, [_text(names[i]) for i in top], share[top].tolist(), [colour[groups[i]] for i in top])
    right.set(title=f"strongest {len(top)} of {len(names)} features", xlabel="share of total gain")
    return figure


def popularity_coverage_curve(recommended: Mapping[str, Sequence[Sequence[int]]], item_counts: Integers) -> Figure:
    """Draw which share of what each system recommends goes to the most popular items.

    The higher a curve on the left, the more the system favours what is popular; past interactions are drawn for
    comparison. The legend says which share of the catalogue was recommended at all.

    Args:
        recommended: system → one list of item rows (item_idx) per request; lists may differ in length.
        item_counts: past interactions of each item, int `(n_items,)`, at least 0.

    Raises:
        ValueError: a row lies outside the catalogue, or the catalogue is empty.
    """
    counts = np.asarray(item_counts)
    if not len(counts):
        raise ValueError("item_counts is empty; give the past interactions of every item")
    order = np.argsort(-counts, kind="stable")
    rank = np.arange(1, len(counts) + 1)
    figure = _new_figure(6.8, 4.4)
    axes = figure.subplots()
    axes.plot(
        rank, _cumulative(counts[order]), color="#475569", linestyle="--", linewidth=1.2, label="past interactions"
    )
    others = _COLOURS[:1] + _COLOURS[2:]  # the second is too close to the full system's own
    for (name, lists), colour in zip(_full_last(recommended), others * len(recommended), strict=False):
        rows = np.asarray([row for slate in lists for row in slate], np.int64)
        if (outside := rows[(rows < 0) | (rows >= len(counts))]).size:
            raise ValueError(
                f"{name} recommends {outside.size} rows outside 0..{len(counts) - 1}, {outside[:3].tolist()}; pass "
                "item_idx of this catalogue, without padding"
            )
        shown = np.bincount(rows, minlength=len(counts))
        label = f"{_text(name)} ({(shown > 0).mean():.1%} of the catalogue)"
        is_full = name == FULL_SYSTEM
        line = _HIGHLIGHT if is_full else colour
        axes.plot(rank, _cumulative(shown[order]), color=line, linewidth=2.6 if is_full else 1.4, label=label)
    axes.set(
        title="exposure by popularity",
        xlabel="items, the most popular first (rank, logarithmic)",
        ylabel="share of all recommendations",
        xscale="log",
        xlim=(1, max(len(counts), 2)),
        ylim=(0.0, 1.02),
    )
    axes.legend(frameon=False, fontsize="small", loc="upper left")
    _tidy(axes)
    return figure


def embedding_projection(embeddings: Float, categories: Sequence[Sequence[str]]) -> Figure:
    """Draw items on the two directions in which their embeddings vary most, coloured by the commonest categories.

    An item in several of the eight commonest categories takes the rarest of them, which says most about it. Of more
    than 8,000 items every n-th is drawn.

    Args:
        embeddings: float `(n_items, d)`. categories: of each item, may be empty.

    Raises:
        ValueError: unequal numbers of items, or fewer than two items or dimensions.
    """
    vectors = np.asarray(embeddings, np.float64)
    if vectors.ndim != 2 or min(vectors.shape) < 2 or len(vectors) != len(categories):
        raise ValueError(
            f"embeddings have shape {vectors.shape} for {len(categories)} items; pass (n_items, d), both at least 2"
        )
    chosen = np.arange(0, len(vectors), -(-len(vectors) // _MAX_POINTS))
    places, explained = _principal_plane(vectors[chosen])
    held = [set(categories[row]) for row in chosen.tolist()]
    counts = Counter(category for of_item in held for category in of_item)
    common = [name for name, _ in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:TOP_CATEGORIES]]
    number_of = np.array([max((i for i, name in enumerate(common) if name in of_item), default=-1) for of_item in held])
    figure = _new_figure(8.2, 5.6)
    axes = figure.subplots()
    size = float(np.clip(9_000 / len(chosen), 3, 40))
    for number in range(-1, len(common)):
        points = places[number_of == number]
        if len(points):
            name = "other" if number < 0 else _text(common[number], f"category {number + 1}")
            colour = _FAINT if number < 0 else _COLOURS[number]
            axes.scatter(
                points[:, 0],
                points[:, 1],
                s=size,
                color=colour,
                alpha=0.75,
                linewidths=0,
                label=f"{name} ({len(points)})",
            )
    axes.set(
        title=f"item embeddings, {len(chosen)} of {len(vectors)} items",
        xlabel=f"first principal direction ({explained[0]:.0%} of the variance)",
        ylabel=f"second ({explained[1]:.0%})",
    )
    axes.legend(frameon=False, fontsize="small", loc="upper left", bbox_to_anchor=(1.0, 1.0), markerscale=2.0)
    _tidy(axes)
    return figure


def _new_figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize="small")
    axes.title.set_fontsize("medium")
    axes.grid(color="#e5e7eb", linewidth=0.6)
    axes.set_axisbelow(True)


def _series(points: Points) -> dict[str, tuple[Float, Float]]:
    names = dict.fromkeys(name for point in points for name in point if name != "step")
    series = {}
    for name in names:
        pairs = [(point["step"], point[name]) for point in points if point.get(name) is not None]
        if pairs:
            x, y = np.asarray(pairs, np.float64).T
            series[name] = (x, y)
    return series


def _mark_best(axes: Axes, x: Float, y: Float, *, low_is_best: bool, colour: str) -> None:
    if not np.isfinite(y).any():
        return
    best = int(np.nanargmin(y) if low_is_best else np.nanargmax(y))
    axes.plot(x[best], y[best], "o", color=colour, markersize=7, markerfacecolor="white", markeredgewidth=1.8)
    axes.annotate(
        f"{y[best]:.4g} at {x[best]:g}",
        (x[best], y[best]),
        textcoords="offset points",
        xytext=(0, -12 if low_is_best else 8),
        ha="right" if x[best] > x.mean() else "left",
        fontsize="x-small",
        color=colour,
    )


def _metric_panel(axes: Axes, metric: str, systems: Mapping[str, Mapping[str, Mapping[str, float | None]]]) -> None:
    means = np.array([_value(table, metric, "mean", 0.0) for table in systems.values()])
    lows = np.array([_value(table, metric, "lo", mean) for table, mean in zip(systems.values(), means, strict=True)])
    highs = np.array([_value(table, metric, "hi", mean) for table, mean in zip(systems.values(), means, strict=True)])
    colours = [_HIGHLIGHT if name == FULL_SYSTEM else _PLAIN for name in systems]
    arms = np.clip([means - lows, highs - means], 0.0, None)
    axes.barh(range(len(means)), means, xerr=arms, color=colours, height=0.7, error_kw={"lw": 1.2, "capsize": 2.5})
    for place, (table, high) in enumerate(zip(systems.values(), highs, strict=True)):
        text = f" {_value(table, metric, 'mean', 0.0):.3f}" if metric in table else " not measured"
        axes.text(max(float(high), 0.0), place, text, va="center", fontsize="x-small")
    axes.set_xlim(min(0.0, float(lows.min())), max(float(highs.max()), 1e-9) * 1.22)
    axes.set_title(_text(metric))
    _tidy(axes)
    axes.grid(visible=False, axis="y")


def _value(table: Mapping[str, Mapping[str, float | None]], metric: str, key: str, default: float) -> float:
    value = table.get(metric, {}).get(key)
    return float(default) if value is None else float(value)


def _share_bars(axes: Axes, labels: list[str], shares: list[float], colours: list[str]) -> None:
    axes.barh(range(len(shares)), shares, color=colours, height=0.7)
    axes.set_yticks(range(len(labels)), labels)
    for place, share in enumerate(shares):
        axes.text(share, place, f" {share:.1%}", va="center", fontsize="x-small")
    axes.set_xlim(0.0, max([*shares, 1e-9]) * 1.15)
    _tidy(axes)
    axes.grid(visible=False, axis="y")


def _cumulative(counts: npt.NDArray[Any]) -> Float:
    total = counts.sum()
    return np.cumsum(counts) / total if total else np.zeros(len(counts))


def _full_last(recommended: Mapping[str, Sequence[Sequence[int]]]) -> list[tuple[str, Sequence[Sequence[int]]]]:
    return sorted(recommended.items(), key=lambda pair: pair[0] == FULL_SYSTEM)  # drawn on top of the others


def _principal_plane(vectors: Float) -> tuple[Float, Float]:
    """Return the coordinates `(n, 2)` on the first two principal directions, and their shares of the variance."""
    centred = vectors - vectors.mean(axis=0)
    variances, directions = np.linalg.eigh(centred.T @ centred)  # ascending
    first_two = directions[:, [-1, -2]]
    largest = np.abs(first_two).argmax(axis=0)
    first_two = first_two * np.sign(first_two[largest, [0, 1]])  # a direction has no sign of its own
    total = max(float(variances.sum()), np.finfo(np.float64).tiny)
    return centred @ first_two, variances[[-1, -2]].clip(min=0.0) / total


def _text(name: str, stand_in: str = "") -> str:
    """Return a name as it can be drawn: no formulas, and no letters that the font lacks."""
    glyphs = get_font(findfont(FontProperties())).get_charmap()
    legible = "".join(letter if ord(letter) in glyphs else "?" for letter in name)
    if stand_in and not legible.strip("? "):
        return stand_in
    return (legible if len(legible) <= 40 else legible[:39] + "…").replace("$", r"\$")
