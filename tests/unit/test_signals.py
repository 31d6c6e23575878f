from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from review_toys import prepared, shop

from recsys.config import Config
from recsys.datasets.dataset import Dataset
from recsys.datasets.encoded import encode_dataset
from recsys.errors import ConfigError, DataError, EncoderError
from recsys.histories import ImpressionLog
from recsys.schema import Col
from recsys.splits import Fold
from training.reviews import Events
from training.signals import Signals, apply_signals, fit_text, for_encoder, rated_complaints, with_signals
from training.text import TextStage


def signals_of(dataset: Dataset, folder: Path, **overrides: object) -> Signals:
    config = Config().with_overrides({f"data.{key}": value for key, value in overrides.items()})
    data, split, text, desk = prepared(dataset, config, folder)
    return apply_signals(dataset, data, split, text, config, desk, "key")


@pytest.fixture(scope="module")
def default(tmp_path_factory: pytest.TempPathFactory) -> Signals:
    """The signals of `shop()` with the default settings."""
    return signals_of(shop(), tmp_path_factory.mktemp("shop"))


def rows_where(dataset: Dataset, condition: pl.Expr) -> set[int]:
    return set(np.flatnonzero(dataset.interactions.select(condition).to_series().fill_null(value=False)).tolist())


def test_rated_complaints_leave_the_log_and_stay_seen(default):
    dataset = shop()
    found = default
    complaints = rows_where(dataset, pl.col(Col.VALUE) <= 2)
    assert complaints <= set(found.data.seen.row.tolist())
    assert not complaints & set(found.data.log.row.tolist())
    assert (found.data.log.weight > 0).all()
    assert len(found.split.interaction_fold) == len(found.data.log)
    assert len(found.data.log) + len(found.data.seen) == dataset.interactions.height


def shown_shop() -> Dataset:
    """Return `shop()` in which every event names a list of its own that showed its item, clicked, and another."""
    dataset = shop()
    events = dataset.interactions.with_columns(pl.format("r{}", pl.row_index()).alias(Col.REQUEST_ID))
    shown = events.select(
        Col.REQUEST_ID, Col.USER_ID, Col.TIMESTAMP, Col.ITEM_ID, pl.lit(value=True).alias(Col.CLICKED)
    )
    other = pl.when(pl.col(Col.ITEM_ID) == "i00").then(pl.lit("i01")).otherwise(pl.lit("i00")).alias(Col.ITEM_ID)
    beside = shown.with_columns(other, pl.lit(value=False).alias(Col.CLICKED))
    return replace(dataset, interactions=events, impressions=pl.concat([shown, beside]))


def clicked_events(impressions: ImpressionLog | None) -> set[int]:
    """Return the events of `shown_shop()` whose list is clicked."""
    assert impressions is not None
    requests = impressions.row_request[impressions.clicked]
    return {int(impressions.request_id[request].removeprefix("r")) for request in requests}


def test_a_complaint_about_a_shown_item_is_no_click(tmp_path):
    dataset = shown_shop()
    found = signals_of(dataset, tmp_path)
    complaints = set(found.data.seen.row.tolist())
    assert rows_where(dataset, pl.col(Col.VALUE) <= 2) < complaints
    assert clicked_events(found.data.impressions) == set(range(dataset.interactions.height)) - complaints
    assert len(found.data.impressions.item_idx) == 2 * dataset.interactions.height

    newer = encode_dataset(dataset, found.config.data)
    _, _, text, _ = prepared(dataset, found.config, tmp_path)
    weighed = with_signals(dataset, newer, found.head, text.encoder, found.config.data)
    assert clicked_events(weighed.impressions) == set(weighed.log.row.tolist())
    assert clicked_events(signals_of(dataset, tmp_path, sentiment="off").data.impressions) == clicked_events(
        newer.impressions
    )


def test_a_click_that_led_to_a_complaint_stays_one(tmp_path):
    dataset = shown_shop()
    rated = dataset.interactions.filter(pl.col(Col.VALUE) <= 2)
    also = rated.with_columns(
        pl.lit("click").alias(Col.EVENT), pl.lit(None).alias(Col.VALUE), pl.lit(None).alias(Col.TEXT)
    )
    elsewhere = also.with_columns(pl.lit("r0").alias(Col.REQUEST_ID))  # of another list
    of_list = {int(name.removeprefix("r")) for name in rated[Col.REQUEST_ID]}
    for events, stays in ((also, True), (elsewhere, False)):
        both = replace(
            dataset, interactions=pl.concat([dataset.interactions, events.cast(dataset.interactions.schema)])
        )
        found = signals_of(both, tmp_path / str(stays))
        assert bool(of_list & clicked_events(found.data.impressions)) is stays


def test_encoder_is_not_taught_by_clicks_that_ratings_show_to_be_complaints(tmp_path):
    dataset = shown_shop()
    data, split, _, _ = prepared(dataset, Config(), tmp_path)
    told, visible = for_encoder(dataset, data, split, Config())
    complaints = rows_where(dataset, pl.col(Col.VALUE) <= 2)
    assert set(data.log.row[~visible].tolist()) == complaints
    assert clicked_events(told.impressions) == set(range(dataset.interactions.height)) - complaints
    assert told.log is data.log


def test_unrated_comments_are_read(default):
    dataset = shop()
    found = default
    comments = dataset.interactions[Col.EVENT] == "comment"
    grumbles = rows_where(dataset, (pl.col(Col.EVENT) == "comment") & (pl.col(Col.REQUEST_ID) == "not"))
    read = set(found.data.seen.row.tolist()) & set(np.flatnonzero(comments).tolist())
    assert read == grumbles
    assert found.head is not None
    assert found.report["sentiment"]["n_complaints_unrated"] == len(grumbles)


def test_clicks_keep_their_weight_and_praise_weighs_less_than_its_kind(default):
    dataset = shop()
    found = default
    kinds = dataset.interactions[Col.EVENT].to_numpy()[found.data.log.row]
    assert set(found.data.log.weight[kinds == "click"]) == {1.0}
    comments = found.data.log.weight[kinds == "comment"]
    assert ((comments > 0) & (comments < 1.5)).all()


def test_the_test_fold_teaches_the_head_nothing(tmp_path):
    dataset = shop()
    found = signals_of(dataset, tmp_path / "a")
    data, split, _, _ = prepared(dataset, Config(), tmp_path / "a")
    test_rows = data.log.row[split.interaction_fold == Fold.TEST]
    in_test = pl.Series(np.isin(np.arange(dataset.interactions.height), test_rows))
    turned = dataset.interactions.with_columns(
        pl.when(in_test).then(6 - pl.col(Col.VALUE)).otherwise(pl.col(Col.VALUE)).alias(Col.VALUE)
    )
    assert not turned.equals(dataset.interactions)
    other = signals_of(replace(dataset, interactions=turned), tmp_path / "b")
    np.testing.assert_array_equal(found.head.weights, other.head.weights)


def test_off_changes_nothing(tmp_path):
    dataset = shop()
    found = signals_of(dataset, tmp_path, sentiment="off")
    plain = encode_dataset(dataset, Config().data)
    np.testing.assert_array_equal(found.data.log.weight, plain.log.weight)
    assert found.head is None
    assert len(found.data.seen) == 0


def test_auto_leaves_ratings_without_any_text_alone(tmp_path):
    dataset = shop()
    bare = replace(dataset, interactions=dataset.interactions.with_columns(pl.lit(None, pl.String).alias(Col.TEXT)))
    found = signals_of(bare, tmp_path)
    assert len(found.data.seen) == 0
    assert found.config.data.sentiment == "off"


def test_auto_with_few_complaints_goes_by_ratings_alone(tmp_path):
    dataset = shop(complaint_share=0.02)
    found = signals_of(dataset, tmp_path)
    assert found.head is None
    assert set(found.data.seen.row.tolist()) == rows_where(dataset, pl.col(Col.VALUE) <= 2)


def test_on_fails_where_there_is_too_little_to_learn_from(tmp_path):
    with pytest.raises(DataError, match=r"data.sentiment is on, but there are .* rated reviews with text"):
        signals_of(shop(complaint_share=0.02), tmp_path, sentiment="on")


def test_on_fails_without_ratings(tmp_path):
    dataset = shop()
    unrated = replace(
        dataset, interactions=dataset.interactions.with_columns(pl.lit(None, pl.Float64).alias(Col.VALUE))
    )
    with pytest.raises(DataError, match="no two different ratings"):
        signals_of(unrated, tmp_path, sentiment="on")


def test_on_beside_min_rating_wants_the_scale(tmp_path):
    with pytest.raises(ConfigError, match=r"data.min_rating 3 leaves complaints out .* data.rating_scale"):
        signals_of(shop(), tmp_path, sentiment="on", min_rating=3.0)


def test_scale_comes_from_what_is_known_and_is_kept_for_serving(tmp_path):
    assert signals_of(shop(), tmp_path).config.data.rating_scale == (1.0, 5.0)
    assert signals_of(shop(), tmp_path, rating_scale=[0.0, 10.0]).config.data.rating_scale == (0.0, 10.0)


def test_texts_beyond_the_limit_are_not_read(tmp_path):
    # Five texts are too few to learn from.
    found = signals_of(shop(), tmp_path, max_review_texts=5)
    assert found.head is None


def test_second_run_takes_the_embeddings_from_the_work_folder(tmp_path, monkeypatch):
    dataset = shop()
    first = signals_of(dataset, tmp_path)
    monkeypatch.setattr("recsys.models.encoder.TextEncoder.encode", lambda *_: np.zeros((17, 24), np.float32))
    second = signals_of(dataset, tmp_path)
    np.testing.assert_array_equal(first.data.log.weight, second.data.log.weight)


def test_encoder_is_not_taught_by_what_ratings_show_to_be_complaints(tmp_path):
    dataset = shop()
    data, split, _, _ = prepared(dataset, Config(), tmp_path)
    hidden = set(data.log.row[rated_complaints(dataset, data, split, Config())].tolist())
    assert hidden == rows_where(dataset, pl.col(Col.VALUE) <= 2)
    off = Config().with_overrides({"data.sentiment": "off"})
    assert not rated_complaints(dataset, data, split, off).any()


def test_newer_data_is_weighed_by_the_finished_head(tmp_path):
    dataset = shop()
    found = signals_of(dataset, tmp_path)
    newer = shop(seed=77)
    _, _, text, _ = prepared(newer, found.config, tmp_path)
    encoded = encode_dataset(newer, found.config.data)
    weighed = with_signals(newer, encoded, found.head, text.encoder, found.config.data)
    moods = newer.interactions.with_columns((pl.col(Col.REQUEST_ID) == "not") & (pl.col(Col.EVENT) != "click"))[
        Col.REQUEST_ID
    ]
    assert set(weighed.seen.row.tolist()) == set(np.flatnonzero(moods).tolist())


def test_a_price_is_no_rating():
    dataset = shop()
    bought = dataset.interactions.with_columns(
        pl.when(pl.col(Col.EVENT) == "click").then(pl.lit("purchase")).otherwise(pl.col(Col.EVENT)).alias(Col.EVENT),
        pl.when(pl.col(Col.EVENT) == "click").then(99.0).otherwise(pl.col(Col.VALUE)).alias(Col.VALUE),
    )
    shopped = replace(dataset, interactions=bought)
    events = Events.read(shopped, encode_dataset(shopped, Config().data).log)
    assert events.names == ("comment", "purchase", "rating")
    assert np.nanmax(events.rating) == 5.0
    assert not events.is_rated[events.kind == 1].any()


def without_titles(dataset: Dataset) -> Dataset:
    return replace(dataset, items=dataset.items.select(Col.ITEM_ID))


def fitted_text(dataset: Dataset, folder: Path, **overrides: object) -> tuple[TextStage, Signals]:
    """Return the text stage and the signals of a data set on a machine that has no pretrained encoder."""
    config = Config().with_overrides({key.replace("__", "."): value for key, value in overrides.items()})
    data, split, _, desk = prepared(dataset, config, folder)
    text = fit_text(dataset, data, split, config, desk, "key", hidden_idx=np.empty(0, np.int32))
    return text, apply_signals(dataset, data, split, text, config, desk, "key")


@pytest.fixture
def no_pretrained(monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(model: str) -> Path:
        raise EncoderError(f"{model} is not on this machine")

    monkeypatch.setattr("training.encoder.resolve", resolve)


@pytest.mark.usefixtures("no_pretrained")
@pytest.mark.parametrize("kind", ["auto", "pretrained", "small"])
def test_without_any_text_there_is_no_encoder(kind, tmp_path):
    dataset = without_titles(shop())
    dataset = replace(dataset, interactions=dataset.interactions.drop(Col.TEXT))
    text, found = fitted_text(dataset, tmp_path, encoder__kind=kind)

    assert text.encoder is None
    assert text.folder is None
    assert text.embeddings.shape == (17, 1)
    assert not text.embeddings.any()
    assert found.head is None


@pytest.mark.usefixtures("no_pretrained")
def test_reviews_alone_give_a_small_encoder_nothing_to_learn_from_and_ratings_count(tmp_path):
    dataset = without_titles(shop())
    text, found = fitted_text(dataset, tmp_path, encoder__kind="small")

    assert text.encoder is None
    assert found.head is None
    assert set(found.data.seen.row.tolist()) == rows_where(dataset, pl.col(Col.VALUE) <= 2)


@pytest.mark.usefixtures("no_pretrained")
@pytest.mark.parametrize("titles", [True, False])
def test_what_is_to_be_read_needs_an_encoder(titles, tmp_path):
    dataset = shop() if titles else without_titles(shop())

    with pytest.raises(EncoderError, match="not on this machine"):
        fitted_text(dataset, tmp_path, encoder__kind="auto")


def test_reviews_that_must_be_read_are_refused_where_nothing_could_read_them(tmp_path):
    with pytest.raises(ConfigError, match=r"no item has text .* set encoder\.kind to pretrained"):
        fitted_text(without_titles(shop()), tmp_path, encoder__kind="small", data__sentiment="on")
