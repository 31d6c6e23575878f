"""The model card of a training: what it learned from, how well it does for whom, and what it is not known to do."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import numpy as np

from recsys.datasets.summary import summarise
from recsys.evaluation.report import FULL_SYSTEM, SuiteReport
from recsys.evaluation.slices import MIN_REQUESTS
from recsys.splits import Fold
from training.card_facts import (
    ACCURACY,
    CardFacts,
    cell,
    counts_line,
    days_between,
    first_us,
    held_out,
    hurried_by_time,
    last_us,
    moment,
    non_defaults,
    signed,
    size_of,
    table_lines,
    verdict,
)
from training.card_limits import limits
from training.card_signals import card_signals

RANDOM: Final = "random"

_MAX_COLUMNS: Final = 6
_MAX_LIMITS: Final = 8


def model_card(facts: CardFacts) -> str:
    """Return the card as Markdown."""
    sections: tuple[tuple[str, Callable[[CardFacts], Iterator[str]]], ...] = (
        ("Intended use", _intended_use),
        ("Data", _data),
        ("Period and split", _period),
        ("Measured", _measured),
        ("By slice", _by_slice),
        ("The text encoder before and after", _encoder),
        *([("The sequence model", _sequence)] if facts.sequence else []),
        *([("Kinds of behaviour, ratings and texts", card_signals)] if facts.signals else []),
        ("Configuration", _configuration),
        ("Limits", lambda facts: (f"- {limit}" for limit in limits(facts))),
        ("How to reproduce it", _reproduction),
    )
    lines = [f"# Model card: {facts.model_name}, trained on {facts.dataset.name}", ""]
    for title, section in sections:
        lines += [f"## {title}", "", *section(facts), ""]
    return "\n".join(lines)


def card_summary(facts: CardFacts) -> str:
    """Return the card in a few lines of Markdown, for the page of a registered version."""
    lines = [f"Recommendations for {facts.dataset.name}: {counts_line(facts)}."]
    if (first := moment(first_us(facts))) and (last := moment(last_us(facts))):
        lines.append(f"Feedback from {first} to {last}.")
    full, metric = facts.report.systems.get(FULL_SYSTEM, {}), facts.headline
    if metric is not None and metric in full:
        lines.append(f"On {facts.n_requests:,} test requests: {metric} {full[metric]}.")
        if (best := best_part(facts.report, metric)) is not None:
            gap = facts.report.differences[best][metric]
            lines.append(f"Against its best single part, {best}: {signed(gap)}, {verdict(gap)}.")
    lines.append(f"Text encoder: {_tuning_line(facts)}")
    lines += ["", "Limits:", *(f"- {limit}" for limit in limits(facts)[:_MAX_LIMITS])]
    return "\n".join(lines)


def best_part(report: SuiteReport, metric: str) -> str | None:
    """Return the single part, chance left out, with the highest mean of a metric; None where there is none."""
    means = {
        system: table[metric].mean
        for system, table in report.systems.items()
        if system != RANDOM and metric in table and metric in report.differences.get(system, {})
    }
    means = {system: mean for system, mean in means.items() if not math.isnan(mean)}
    return max(means, key=means.__getitem__) if means else None


# -- the sections


def _intended_use(facts: CardFacts) -> Iterator[str]:
    yield (
        "Ordering the items of this catalogue for the people of this log: lists of recommendations, similar items, and "
        "the re-ranking of lists that others made. Visitors without a history get lists from what is popular, or from "
        "the session that a request names; items without behaviour are placed by their text and attributes."
    )
    yield ""
    yield (
        "Not for decisions about people, such as credit, work or prices; not for another catalogue or another audience "
        "without training again. Scores order items within one request: they are no probabilities, and those of two "
        "requests cannot be compared."
    )


def _data(facts: CardFacts) -> Iterator[str]:
    yield "```text"
    yield from summarise(facts.dataset).lines()
    for note, count in facts.dataset.notes.items():
        yield f"tolerated: {count:,} × {note}"
    yield "```"
    yield ""
    yield f"Fingerprint (SHA-256 of all tables): `{facts.fingerprint}`"


def _period(facts: CardFacts) -> Iterator[str]:
    first, last = first_us(facts), last_us(facts)
    if first is None or last is None:
        yield "The data holds no feedback."
        return
    yield f"Feedback from {moment(first)} to {moment(last)} ({days_between(first, last):,.1f} days)."
    yield ""
    if facts.split.boundaries_us is None:
        split = facts.config.split
        yield (
            f"Split by each user's last interactions: the last {split.n_test} test, the {split.n_valid} before stop "
            f"the training early, the {split.n_label} before those label the ranker's rows, everything earlier feeds "
            "the models. The folds have no time of their own: what one user did in the test may precede what another "
            "did in training."
        )
    else:
        label, valid, test = (moment(int(begin_us)) for begin_us in facts.split.boundaries_us)
        yield (
            f"Split by the calendar: before {label} the models are fitted, until {valid} outcomes label the ranker's "
            f"rows, until {test} they stop its training, from {test} on they test. The models that are served were "
            "fitted again on all of it."
        )
    yield ""
    if facts.config.ranker.rows == "cold":
        yield (
            f"The ranker orders items without behaviour: {facts.config.ranker.pseudo_cold_share:.0%} of the items seen "
            "before the test lost theirs to label its rows, as many others lost theirs to be tested on. The figures "
            "are of what users chose among these before the test fold, of which nothing that is measured was told."
        )
        yield ""
    folds = np.bincount(facts.split.interaction_fold, minlength=len(Fold))
    rows = [["interactions", *(f"{count:,}" for count in folds)]]
    if facts.split.request_fold is not None:
        rows.append(["shown lists", *(f"{n:,}" for n in np.bincount(facts.split.request_fold, minlength=len(Fold)))])
    yield from table_lines(["", *(fold.name for fold in Fold)], rows)


def _measured(facts: CardFacts) -> Iterator[str]:
    yield (
        f"Means over {facts.n_requests:,} test requests with 95 % bootstrap intervals over users. `{FULL_SYSTEM}` is "
        f"the system as it is served, `{RANDOM}` is chance, the others are its parts alone on the same requests."
    )
    yield ""
    if not facts.metrics:
        yield "Nothing was measured."
        return
    for columns in _column_groups(facts.metrics):
        yield facts.report.to_markdown_table(columns)
    if not facts.report.differences:
        return
    yield "The whole less each part, paired over the same requests; an interval that holds zero shows no difference:"
    yield ""
    differences = facts.report.differences
    for columns in _column_groups([name for table in differences.values() for name in table]):
        rows = [
            [system, *(signed(table[name]) if name in table else "–" for name in columns)]
            for system, table in differences.items()
        ]
        yield from table_lines([f"{FULL_SYSTEM} less", *columns], rows)
        yield ""


def _by_slice(facts: CardFacts) -> Iterator[str]:
    slices = facts.report.slices.get(FULL_SYSTEM, {})
    if not slices:
        yield "Nothing was measured by slice."
        return
    yield (
        "The full system for parts of the requests: by what is known of the user and of the item, by the item's "
        f"popularity, by the length of the history. Below {MIN_REQUESTS} requests only their number is told."
    )
    yield ""
    for columns in _column_groups([name for table in slices.values() for name in table]):
        rows = [
            [name, size_of(table), *(cell(table.get(metric)) for metric in columns)]
            for name, table in slices.items()
            if size_of(table)
        ]
        yield from table_lines(["slice", "requests", *columns], rows)
        yield ""
    if empty := [name for name, table in slices.items() if not size_of(table)]:
        yield f"Without any request: {', '.join(empty)}."


def _column_groups(metrics: Sequence[str]) -> Iterator[list[str]]:
    """Yield the metrics in tables that fit a page, those that say how well it recommends first."""
    names = list(dict.fromkeys(metrics))
    for of_accuracy in (True, False):
        group = [name for name in names if (name.split("@")[0] in ACCURACY) == of_accuracy]
        yield from (group[start : start + _MAX_COLUMNS] for start in range(0, len(group), _MAX_COLUMNS))


def _encoder(facts: CardFacts) -> Iterator[str]:
    encoder, config = facts.encoder, facts.config.encoder
    if not facts.has_encoder:
        yield "There is none: no item has any text."
        return
    curve = held_out(facts)
    rows = [
        ["starts from", f"{encoder['base']} ({encoder['kind']})"],
        ["objective", _objective(facts)],
        ["tuned", _tuned(facts)],
        ["ended by", encoder["stopped_because"]],
        ["time", f"{encoder['seconds']:.0f} s"],
        ["text read", f"{', '.join(facts.config.data.text_fields)}; at most {config.max_length} tokens"],
    ]
    if curve:
        step, after = min(curve, key=lambda point: point[1])
        rows.insert(3, ["held-out loss before", f"{curve[0][1]:.4f}"])
        rows.insert(4, ["held-out loss after", f"{after:.4f} (the lowest, at step {step}; that state is used)"])
    if (cosine := encoder.get("mean_cosine")) is not None:
        rows.append(["mean cosine of an item's embeddings before and after", f"{cosine:.3f}"])
    yield from table_lines(["", ""], rows)


def _sequence(facts: CardFacts) -> Iterator[str]:
    yield "Trained once, on the past; brought up to date from there for what is known later:"
    yield ""
    rows = [
        [
            name,
            str(fit["epochs"]),
            fit["stopped_because"],
            "was short" if fit["time_was_short"] else "was enough",
            f"{fit['seconds']:.0f} s",
        ]
        for name, fit in facts.sequence.items()
    ]
    yield from table_lines(["part of", "epochs", "ended by", "time for it", "time"], rows)


def _configuration(facts: CardFacts) -> Iterator[str]:
    changed = non_defaults(facts.config)
    yield f"Seed {facts.config.seed}. The run's config.yaml holds every value. Other than by default:"
    yield ""
    if not changed:
        yield "nothing."
        return
    yield from table_lines(["key", "value", "default"], [[f"`{key}`", *values] for key, values in changed.items()])


def _reproduction(facts: CardFacts) -> Iterator[str]:
    yield f"With the data of the fingerprint above and config.yaml of the run `{facts.run_id}`:"
    yield ""
    yield "```"
    yield f"recsys train --data FOLDER --format {facts.dataset.format} --config config.yaml"
    yield "```"
    yield ""
    same = "the same data, configuration, versions and number of threads give the same figures; times differ."
    if hurried := hurried_by_time(facts):
        yield (
            f"Time was short for {' and '.join(hurried)}: how far the training came depends on the machine and on what "
            f"else it did, so another training may give other figures. With enough time "
            f"({', '.join(f'`{setting}`' for setting in hurried.values())}), {same}"
        )
    else:
        yield same.capitalize()
    if facts.environment:
        yield ""
        yield from table_lines(["part", "version"], [[name, value] for name, value in facts.environment.items()])


# -- words


def _tuning_line(facts: CardFacts) -> str:
    curve = held_out(facts)
    if not facts.has_encoder:
        return "none, since no item has any text."
    if not curve:
        return f"{facts.encoder['base']}, {facts.encoder['stopped_because']}."
    after = min(point[1] for point in curve)
    return f"{facts.encoder['base']}, held-out loss {curve[0][1]:.3f} before and {after:.3f} after tuning."


def _objective(facts: CardFacts) -> str:
    """Return what the text stage says it tuned for, else what was set."""
    return str(facts.encoder.get("objective") or facts.config.encoder.objective)


def _tuned(facts: CardFacts) -> str:
    config = facts.config.encoder
    if facts.encoder["stopped_because"] == "not tuned":
        return "nothing"
    if facts.encoder["kind"] == "small" or config.tune == "full":
        return "all weights"
    words = {
        "top_layers": f"the last {config.n_top_layers} layers",
        "lora": f"LoRA adapters of rank {config.lora_rank}",
    }
    return words.get(config.tune, "nothing")
