"""What a model card says of what events express."""

from types import SimpleNamespace
from typing import Any, cast

from training.card_facts import CardFacts
from training.card_signals import card_signals

HEAD = {
    "auc": {"mean": 0.94, "lo": 0.91, "hi": 0.967},
    "log_loss_difference": {"mean": -0.04, "lo": -0.055, "hi": -0.026},
    "n_reviews": 2972,
    "n_complaints": 66,
    "called_complaints": 87,
    "called_rightly": 28,
}
SENTIMENT = {"n_signed": 3100, "n_complaints": 70, "n_complaints_unrated": 4, "mean_signal": 0.8, "head": HEAD}
WEIGHTS = {
    "weights": {"click": 1.0, "like": 0.83, "share": 3.0},
    "intervals": {"click": (1.0, 1.0), "like": (0.63, 1.1)},
    "reference": "click",
    "n_choices": 4880,
    "note": "",
}


def told(signals: dict[str, Any]) -> str:
    return "\n".join(card_signals(cast(CardFacts, SimpleNamespace(signals=signals))))


def test_reviews_are_told_with_how_well_their_texts_are_read() -> None:
    text = told({"sentiment": SENTIMENT})

    assert "3,100 reviews and comments weigh by what they say. 70 of them are complaints, 4 by their text alone" in text
    assert "measured on 2,972 reviews of users it had not seen: AUC 0.940 [0.910, 0.967], log loss -0.040 " in text
    assert "it takes 87 for complaints, 28 of them rightly, of 66 that there are." in text
    assert "Weights" not in text


def test_where_texts_take_no_part_the_card_says_so() -> None:
    assert told({"sentiment": SENTIMENT | {"head": None}}).endswith("Texts take no part; ratings alone count.")


def test_learned_weights_are_a_table() -> None:
    text = told({"sentiment": SENTIMENT, "event_weights": WEIGHTS})

    assert "learned from 4,880 choices, relative to click;" in text
    assert "| like | 0.83 | 0.63 to 1.10 |" in text
    assert "| share | 3 | – |" in text


def test_weights_that_were_not_learned_are_told_with_the_reason() -> None:
    text = told({"event_weights": WEIGHTS | {"note": "only 12 choices of new items, of 200 needed"}})

    assert text == "Weights of the kinds of event are as they were set: only 12 choices of new items, of 200 needed."
