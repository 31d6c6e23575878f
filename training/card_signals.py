"""The section of the model card about what events express: reviews read as for or against, and learned weights."""

from collections.abc import Iterator, Mapping
from typing import Any

from training.card_facts import CardFacts, table_lines


def card_signals(facts: CardFacts) -> Iterator[str]:
    """Yield the section's lines, Markdown; `facts.signals` must not be empty."""
    sections = [
        tell(facts.signals[name])
        for name, tell in (("sentiment", _reviews), ("event_weights", _weights))
        if name in facts.signals
    ]
    for place, lines in enumerate(sections):
        if place:
            yield ""
        yield from lines


def _reviews(report: Mapping[str, Any]) -> Iterator[str]:
    yield (
        f"{report['n_signed']:,} reviews and comments weigh by what they say. {report['n_complaints']:,} of them are "
        f"complaints, {report['n_complaints_unrated']:,} by their text alone: these taught nothing, and their items "
        "are not recommended to who complained."
    )
    head = report["head"]
    if head is None:
        yield "Texts take no part; ratings alone count."
        return
    auc, loss = head["auc"], head["log_loss_difference"]
    found, called = head["called_rightly"], head["called_complaints"]
    yield (
        f"Texts are read by the sentiment head, measured on {head['n_reviews']:,} reviews of users it had not seen: "
        f"AUC {auc['mean']:.3f} [{auc['lo']:.3f}, {auc['hi']:.3f}], log loss {loss['mean']:+.3f} [{loss['lo']:+.3f}, "
        f"{loss['hi']:+.3f}] against the base rate. By their texts alone it takes {called:,} for complaints, "
        f"{found:,} of them rightly, of {head['n_complaints']:,} that there are."
    )


def _weights(report: Mapping[str, Any]) -> Iterator[str]:
    if report["note"]:
        yield f"Weights of the kinds of event are as they were set: {report['note']}."
        return
    yield (
        f"Weights of the kinds of event, learned from {report['n_choices']:,} choices, relative to "
        f"{report['reference']}; 95 % intervals over users, none for kinds too rare to learn:"
    )
    yield ""
    intervals = report["intervals"]
    rows = [
        [name, f"{weight:g}", f"{intervals[name][0]:.2f} to {intervals[name][1]:.2f}" if name in intervals else "–"]
        for name, weight in report["weights"].items()
    ]
    yield from table_lines(["kind", "weight", "interval"], rows)
