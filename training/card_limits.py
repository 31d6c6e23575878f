"""What the data and the figures of a training do not allow to say, in plain words."""

import math
from collections.abc import Iterator
from typing import Final

from recsys.evaluation.report import FULL_SYSTEM
from recsys.evaluation.slices import MIN_REQUESTS
from training.card_facts import ACCURACY, CardFacts, days_between, held_out, last_us, named, signed, size_of

_FEW_REQUESTS: Final = 300  # below, an interval is usually wider than the differences one looks for
_MANY_WITHOUT_TEXT: Final = 0.05
_MANY_WITHOUT_BEHAVIOUR: Final = 0.2


def limits(facts: CardFacts) -> list[str]:
    """Return one sentence or two per limit, those of the measurement first."""
    return [*_limits_of_measurement(facts), *_limits_of_parts(facts), *_limits_of_data(facts), *_limits_of_text(facts)]


def _limits_of_measurement(facts: CardFacts) -> Iterator[str]:
    if facts.n_requests < _FEW_REQUESTS:
        yield f"Only {facts.n_requests:,} requests were measured; the intervals are wide."
    slices = facts.report.slices.get(FULL_SYSTEM, {})
    if few := [f"{name} ({size_of(table)})" for name, table in slices.items() if size_of(table) < MIN_REQUESTS]:
        yield f"Too few requests to say anything about {named(few)}."
    if facts.split.boundaries_us is not None:
        days = days_between(int(facts.split.boundaries_us[-1]), last_us(facts) or 0)
        yield f"The test spans {days:,.1f} days; seasons and trends beyond them are not in the figures."
    else:
        yield (
            "The test is each user's last interaction, not a period: the figures do not say how the system ages, and "
            "popularity may come from after the moment that is tested."
        )


def _limits_of_parts(facts: CardFacts) -> Iterator[str]:
    """Yield where the whole is not shown to be better than a part."""
    worse, undecided = [], []
    for system, table in facts.report.differences.items():
        for metric, gap in table.items():
            # Only figures that say how well it recommends are better when higher.
            if metric.split("@")[0] not in ACCURACY or math.isnan(gap.mean):
                continue
            if gap.excludes_zero and gap.mean < 0:
                worse.append(f"{system} in {metric} ({signed(gap)})")
            elif not gap.excludes_zero:
                undecided.append(f"{system} in {metric} ({signed(gap)})")
    if worse:
        yield f"The whole is worse than {named(worse)}."
    if undecided:
        yield f"No difference is shown between the whole and {named(undecided)}: the interval holds zero."


def _limits_of_data(facts: CardFacts) -> Iterator[str]:
    dataset, data = facts.dataset, facts.data
    if dataset.impressions is None:
        yield (
            "The log does not say what was shown. What nobody saw looks like what nobody wanted, and what an earlier "
            "system showed looks wanted: the model learns that system's choices, and the figures reward it for them."
        )
    else:
        yield (
            "The log holds only lists that an earlier system chose to show; the figures say how well those are "
            "ordered, not what other items would have been liked."
        )
        yield "The choice of what was shown is not corrected for: propensities are stored, but training reads none."
        if data.impressions is None or not data.impressions.has_positions:
            yield "Impressions carry no positions: that the upper places are clicked more is not corrected for."
    without = int((data.log.item_counts() == 0).sum())
    if len(data.catalogue) and without / len(data.catalogue) >= _MANY_WITHOUT_BEHAVIOUR:
        yield f"{without:,} of {len(data.catalogue):,} items have no behaviour; they are placed by content alone."
    if data.user_attribute_names and "user" in facts.config.features.groups:
        yield (
            f"Attributes of users enter the ranking ({named(list(data.user_attribute_names))}); whether groups of "
            "users are served equally well was not measured."
        )


def _limits_of_text(facts: CardFacts) -> Iterator[str]:
    texts = facts.data.catalogue.texts
    without = sum(not text.strip() for text in texts)
    if texts and without / len(texts) >= _MANY_WITHOUT_TEXT:
        yield f"{without / len(texts):.0%} of the items have no text; without behaviour they cannot be found by it."
    if not facts.has_encoder:
        return
    curve = held_out(facts)
    if not curve:
        yield "The encoder was not tuned on this log, or nothing was held out to say whether that helped."
    elif min(point[1] for point in curve) >= curve[0][1]:
        yield "Fine-tuning did not lower the encoder's held-out loss; the encoder is used as it was."
