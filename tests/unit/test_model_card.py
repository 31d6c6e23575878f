"""What a model card says, and that it says so from the data."""

import math
import re
from dataclasses import replace

import polars as pl
import pytest
from tiny import SIMULATION

from recsys.config import Config
from recsys.datasets.encoded import encode_dataset
from recsys.datasets.simulated import simulate
from recsys.evaluation.intervals import Interval
from recsys.evaluation.report import SuiteReport
from recsys.splits import make_split
from training.card_facts import CardFacts, non_defaults
from training.card_limits import limits
from training.model_card import best_part, card_summary, model_card
from training.text import TextStage

NAN = math.nan
CURVE = [
    {"step": 0, "seconds": 0.0, "train_loss": None, "valid_loss": 3.5},
    {"step": 40, "seconds": 4.0, "train_loss": 2.9, "valid_loss": 2.75},
    {"step": 80, "seconds": 8.0, "train_loss": 2.1, "valid_loss": 2.875},
]
ENCODER = {"kind": "pretrained", "base": "tiny/base", "curve": CURVE, "seconds": 12.4, "stopped_because": "patience"}


def report() -> SuiteReport:
    def table(auc: float, novelty: float) -> dict[str, Interval]:
        return {"auc": Interval(auc, auc - 0.02, auc + 0.02, 400), "novelty": Interval(novelty, 1.0, 9.0, 400)}

    def gap(mean: float, half: float) -> dict[str, Interval]:
        return {"auc": Interval(mean, mean - half, mean + half, 400), "novelty": Interval(-2.0, -3.0, -1.0, 400)}

    return SuiteReport(
        suite="toy",
        split="time",
        seed=1,
        systems={"full": table(0.7, 4.25), "random": table(0.9, 5.0), "als": table(0.6, 3.0), "text": table(0.65, 6.0)},
        differences={"random": gap(-0.2, 0.01), "als": gap(0.1, 0.02), "text": gap(0.05, 0.06)},
        slices={
            "full": {
                "user=warm": {"auc": Interval(0.71, 0.68, 0.74, 380)},
                "user=cold": {"auc": Interval(NAN, NAN, NAN, 20)},
                "item=unknown": {"auc": Interval(NAN, NAN, NAN, 0)},
            }
        },
    )


def facts(**changes: object) -> CardFacts:
    dataset = simulate(SIMULATION, 7).dataset
    config = Config().with_overrides({"ranker.num_leaves": 9, "tracking.uri": "postgresql://me:secret@db/x"})
    data = encode_dataset(dataset, config.data)
    made = CardFacts(
        dataset=dataset,
        data=data,
        split=make_split(data.log, data.impressions, config.split),
        config=config,
        report=report(),
        encoder=ENCODER,
        n_requests=400,
        run_id="abc123",
        model_name="magazine",
        fingerprint="f00d",
        environment={"lightgbm": "4.7", "git commit": "beef"},
    )
    return replace(made, **changes)


def section(card: str, title: str) -> str:
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", card, re.MULTILINE | re.DOTALL)
    assert found is not None, card
    return found[1]


@pytest.fixture(scope="module")
def made() -> CardFacts:
    return facts()


@pytest.fixture(scope="module")
def card(made: CardFacts) -> str:
    return model_card(made)


def test_a_card_names_the_model_and_its_data(made: CardFacts, card: str) -> None:
    data = section(card, "Data")

    assert card.startswith("# Model card: magazine, trained on ")
    assert f"{made.dataset.n_users:,}" in data
    assert f"{made.dataset.items.height:,}, " in data
    assert "`f00d`" in data


def test_the_period_is_told_with_the_moments_of_the_split(made: CardFacts, card: str) -> None:
    period = section(card, "Period and split")
    shown = made.dataset.impressions
    assert shown is not None
    first = min(made.dataset.interactions["timestamp"].min(), shown["timestamp"].min())  # type: ignore[type-var]

    assert f"Feedback from {first:%Y-%m-%d %H:%M} UTC to " in period
    assert made.split.boundaries_us is not None
    for begin_us in made.split.boundaries_us:
        assert f"{pl.Series([begin_us]).cast(pl.Datetime('us'))[0]:%Y-%m-%d %H:%M} UTC" in period
    assert made.split.request_fold is not None
    assert f"| {int((made.split.request_fold == 3).sum()):,} |" in period


def test_a_split_by_users_is_told_as_one() -> None:
    config = Config().with_overrides({"split.kind": "leave_last", "split.n_label": 4})
    base = facts()
    dataset = replace(base.dataset, impressions=None)
    data = encode_dataset(dataset, config.data)
    split = make_split(data.log, None, config.split)
    made = replace(base, dataset=dataset, data=data, split=split, config=config)

    period = section(model_card(made), "Period and split")

    assert "the last 1 test, the 1 before stop the training early, the 4 before those label" in period
    assert "not a period" in " ".join(limits(made))


def test_a_test_of_hidden_items_is_told_as_one(card: str) -> None:
    config = Config().with_overrides({"ranker.rows": "cold", "ranker.pseudo_cold_share": 0.2})

    period = section(model_card(replace(facts(), config=config)), "Period and split")

    assert "20% of the items seen before the test lost theirs to label its rows, as many others" in period
    assert "lost theirs" not in card


def test_every_metric_of_every_system_is_there_whatever_its_name(card: str) -> None:
    measured = section(card, "Measured")

    assert "| **full** | **0.700 [0.680, 0.720]** |" in measured
    assert "| als | 3.000 [1.000, 9.000] |" in measured
    assert "| text | +0.050 [-0.010, +0.110] |" in measured
    assert measured.index("| system | auc |") < measured.index("| system | novelty |")


def test_slices_show_what_is_measured_and_how_many_requests_there_were(card: str) -> None:
    slices = section(card, "By slice")

    assert "| user=warm | 380 | 0.710 [0.680, 0.740] |" in slices
    assert "| user=cold | 20 | – |" in slices
    assert "Without any request: item=unknown." in slices


def test_the_encoder_is_told_before_and_after(made: CardFacts, card: str) -> None:
    encoder = section(card, "The text encoder before and after")

    assert "| starts from | tiny/base (pretrained) |" in encoder
    assert "| tuned | the last 2 layers |" in encoder
    assert "| held-out loss before | 3.5000 |" in encoder
    assert "| held-out loss after | 2.7500 (the lowest, at step 40; that state is used) |" in encoder
    assert "| ended by | patience |" in encoder
    assert "| time | 12 s |" in encoder
    assert "cosine" not in encoder
    told = model_card(replace(made, encoder=ENCODER | {"mean_cosine": 0.8125, "objective": "gram"}))
    assert "| mean cosine of an item's embeddings before and after | 0.812 |" in told
    assert "| objective | gram |" in told


def test_a_catalogue_without_text_is_told_to_have_no_encoder(made: CardFacts) -> None:
    bare = replace(made, encoder=TextStage.without_text(3).report)

    assert "There is none: no item has any text." in section(model_card(bare), "The text encoder before and after")
    assert "Text encoder: none, since no item has any text." in card_summary(bare)
    assert "The encoder" not in " ".join(limits(bare))


def test_an_encoder_that_was_not_tuned_is_told_as_it_is(made: CardFacts) -> None:
    untuned = replace(made, encoder=ENCODER | {"curve": [], "stopped_because": "not tuned"})

    encoder = section(model_card(untuned), "The text encoder before and after")

    assert "| tuned | nothing |" in encoder
    assert "loss" not in encoder
    assert "The encoder was not tuned on this log" in " ".join(limits(untuned))
    assert "tiny/base, not tuned." in card_summary(untuned)


def test_tuning_that_did_not_help_is_a_limit(made: CardFacts) -> None:
    worse = replace(made, encoder=ENCODER | {"curve": [CURVE[0], CURVE[1] | {"valid_loss": 3.75}]})

    assert "Fine-tuning did not lower the encoder's held-out loss" in " ".join(limits(worse))
    assert "Fine-tuning" not in " ".join(limits(made))


def test_only_what_was_changed_is_told_of_the_configuration(made: CardFacts, card: str) -> None:
    configuration = section(card, "Configuration")

    assert "| `ranker.num_leaves` | 9 | 31 |" in configuration
    assert "n_trees" not in configuration
    assert "secret" not in card
    assert non_defaults(Config()) == {}
    assert list(non_defaults(made.config)) == ["ranker.num_leaves", "tracking.uri"]


def test_limits_are_worked_out_from_the_figures(made: CardFacts) -> None:
    told = limits(made)

    assert "Too few requests to say anything about user=cold (20), item=unknown (0)." in told
    assert "The whole is worse than random in auc (-0.200 [-0.210, -0.190])." in told
    undecided = next(limit for limit in told if limit.startswith("No difference is shown"))
    assert "text in auc (+0.050 [-0.010, +0.110])" in undecided
    assert "als" not in undecided
    assert "novelty" not in " ".join(told)  # describes lists, is not better when higher
    assert not any(limit.startswith("Only ") for limit in told)
    assert limits(replace(made, n_requests=40))[0].startswith("Only 40 requests were measured")


def test_limits_are_worked_out_from_the_data(made: CardFacts) -> None:
    items = made.dataset.items.select("item_id")
    silent = replace(made.dataset, items=items, impressions=None, users=None)
    without = replace(made, dataset=silent, data=encode_dataset(silent, made.config.data))

    assert "does not say what was shown" not in " ".join(limits(made))
    assert "does not say what was shown" in " ".join(limits(without))
    assert "100% of the items have no text" in " ".join(limits(without))
    assert "no text" not in " ".join(limits(made))


@pytest.mark.parametrize("propensity", [None, 0.25])
def test_that_selection_is_not_corrected_for_is_told_of_all_impressions(
    propensity: float | None, made: CardFacts
) -> None:
    shown = made.dataset.impressions
    assert shown is not None
    with_column = shown.with_columns(pl.lit(propensity, pl.Float64).alias("propensity"))
    told = replace(made, dataset=replace(made.dataset, impressions=with_column))

    assert "The choice of what was shown is not corrected for" in " ".join(limits(told))
    assert "not corrected for" not in " ".join(limits(replace(made, dataset=replace(made.dataset, impressions=None))))


def test_a_card_says_how_to_make_the_model_again(card: str) -> None:
    again = section(card, "How to reproduce it")

    assert "recsys train --data FOLDER --format tables --config config.yaml" in again
    assert "`abc123`" in again
    assert "| lightgbm | 4.7 |" in again
    assert "\nThe same data, configuration, versions and number of threads give the same figures" in again


def test_equal_figures_are_not_promised_where_time_was_short(made: CardFacts) -> None:
    fits = {
        "models of the past": {"epochs": 12, "stopped_because": "epochs", "time_was_short": False, "seconds": 80.2},
        "models before the test": {"epochs": 1, "stopped_because": "time", "time_was_short": True, "seconds": 420.1},
    }
    enough = model_card(replace(made, sequence={"models of the past": fits["models of the past"]}))
    short = model_card(replace(made, sequence=fits))
    both = model_card(replace(made, sequence=fits, encoder=ENCODER | {"stopped_because": "time"}))

    assert "| models of the past | 12 | epochs | was enough | 80 s |" in section(short, "The sequence model")
    assert "| models before the test | 1 | time | was short | 420 s |" in section(short, "The sequence model")
    assert "\nThe same data" in section(enough, "How to reproduce it")
    promise = section(short, "How to reproduce it")
    assert "\nThe same data" not in promise
    assert "Time was short for the sequence model (models before the test)" in promise
    assert "With enough time (`sequence.max_train_seconds`), the same data, configuration" in promise
    assert "for the text encoder and the sequence model (models before the test)" in both
    assert "(`encoder.max_train_seconds`, `sequence.max_train_seconds`)" in both


def test_the_summary_compares_with_the_best_single_part(made: CardFacts) -> None:
    summary = card_summary(made)

    assert best_part(made.report, "auc") == "text"  # not chance, though it is higher here
    assert "On 400 test requests: auc 0.700 [0.680, 0.720]." in summary
    assert "Against its best single part, text: +0.050 [-0.010, +0.110], an interval that holds zero." in summary
    assert "tiny/base, held-out loss 3.500 before and 2.750 after tuning." in summary
    assert "- Too few requests" in summary
    assert len(summary) < 4_000


def test_a_card_without_any_measurement_can_be_written(made: CardFacts) -> None:
    nothing = replace(made, report=SuiteReport("toy", "time", 1, {}), n_requests=0)

    assert "Nothing was measured." in model_card(nothing)
    assert "test requests" not in card_summary(nothing)


def test_what_events_express_is_told_where_something_was_decided(made: CardFacts, card: str) -> None:
    title = "Kinds of behaviour, ratings and texts"
    sentiment = {"n_signed": 12, "n_complaints": 5, "n_complaints_unrated": 2, "head": None}

    assert f"## {title}" not in card
    assert "5 of them are complaints" in section(model_card(replace(made, signals={"sentiment": sentiment})), title)
