from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest
import scipy.sparse as sp

from features import collaborative, item, popularity, session, text, user
from features.assemble import feature_names
from features.context import HOUR_US, MINUTE_US, ItemTable, RequestContext, current_session, share_below
from features.path import RankingPath
from recsys.catalogue import Catalogue
from recsys.config import Config
from recsys.counters import BucketCounts, Counters
from recsys.errors import ConfigError
from recsys.histories import History, InteractionLog, Request
from recsys.ids import IdMap
from recsys.models.covisitation import Covisitation
from recsys.models.factors import ItemFactors
from recsys.models.fitted import FittedModels
from recsys.models.linear_items import Ease, NextItem

START = datetime(2024, 1, 1, tzinfo=UTC)
START_US = 1_704_067_200_000_000
ALL = np.arange(5, dtype=np.int32)
NAN = np.nan
# unit rows, the last item has no text
EMBEDDINGS = np.array([[1, 0, 0], [0.6, 0.8, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]], np.float32)
FACTORS = np.array([[2, 0], [3, 4], [0, 1], [0, 0], [-1, 0]], np.float32)
CONTENT = np.array([[1, 0], [0, 1], [1, 1], [2, 0], [0, 0]], np.float32)
TRANSITIONS = np.array(
    [[0, 3, 1, 0, 0], [0, 0, 2, 0, 0], [0, 0, 0, 0, 5], [0, 0, 0, 0, 0], [1, 0, 0, 0, 0]], np.float32
)

EASE = np.array([[0, 1, 2, 0, 0], [1, 0, -1, 0, 0], [0, 4, 0, 0, 0], [0, 0, 0, 0, 0], [0, 8, 0, 0, 0]], np.float32)
NEXT_ITEM = np.array([[0, 2, 0, 0, 0], [0, 0, 6, 0, 0], [4, 0, 0, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 1, 0]], np.float32)


def _counts(rows: list[tuple[int, float]]) -> BucketCounts:
    """Count events of (item, hours since the start)."""
    return BucketCounts.build(
        np.array([row[0] for row in rows], np.int32),
        np.array([START_US + int(row[1] * HOUR_US) for row in rows], np.int64),
        None,
        bucket_us=HOUR_US,
    )


def _models(**overrides: Any) -> FittedModels:
    config = Config().with_overrides(
        {"features.windows_hours": [2.0, 10.0], "features.max_history": 4, "covisitation.history_length": 3} | overrides
    )
    items = pl.DataFrame(
        {
            "item_id": list("abcde"),
            "title": ["one two", "three", "four", "five", None],
            "categories": [["x", "y"], ["x"], ["y"], ["z"], []],
            "created_at": [START, START + timedelta(hours=20), None, START, START],
            "brand": ["P", "P", "Q", None, "Q"],
            "price": [10.0, 20.0, None, 30.0, 20.0],
        },
        schema_overrides={"created_at": pl.Datetime("us", "UTC")},
    )
    nothing = np.empty(0, np.int32)
    return FittedModels(
        config=config,
        catalogue=Catalogue.from_items(items, ("title",)),
        user_ids=IdMap(["u", "v"]),
        user_attributes=np.array([[30, NAN], [40, 1]], np.float32),
        user_attribute_names=("age", "country"),
        log=InteractionLog.from_arrays(nothing, nothing, nothing, nothing, n_users=2, n_items=5),
        item_embeddings=EMBEDDINGS,
        factors=ItemFactors(FACTORS, CONTENT, np.array([True, True, True, False, True]), 1.0, 2.0),
        covisitation=Covisitation(sp.csr_matrix(TRANSITIONS), 3, 0.5),
        ease=Ease(sp.csr_matrix(EASE)),
        next_item=NextItem(sp.csr_matrix(NEXT_ITEM), 2, 1.0),
        counters=Counters(
            _counts([(0, 1), (0, 9.5), (0, 8), (1, 9), (4, 11)]),
            _counts([(0, 9), (1, 9), (1, 9), (2, 4)]),
            _counts([(1, 9), (2, 4)]),
        ),
    )


def _history(
    items: list[int], minutes_ago: list[float], weights: list[float] | None = None, hours: float = 10
) -> History:
    times = [START_US + int(hours * HOUR_US - minute * MINUTE_US) for minute in minutes_ago]
    weight = np.array(weights or [1.0] * len(items), np.float32)
    return History(np.array(items, np.int32), np.array(times, np.int64), weight)


def _context(
    history: History | None = None,
    *,
    hours: float = 10,
    user_idx: int = -1,
    candidates: list[int] | None = None,
    rows: np.ndarray = ALL,
    models: FittedModels | None = None,
    **overrides: Any,
) -> RequestContext:
    models = models or _models(**overrides)
    given = None if candidates is None else np.array(candidates, np.int32)
    request = Request(history or History.empty(), START_US + int(hours * HOUR_US), user_idx, given)
    return RequestContext.build(models, ItemTable.build(models), request, rows)


def _columns(module: Any, context: RequestContext) -> dict[str, list[float]]:
    rows = module.compute(context)
    names = module.names(context)
    assert rows.shape == (len(context), len(names))
    return {name: rows[:, column].tolist() for column, name in enumerate(names)}


def _near(values: list[float]) -> Any:
    return pytest.approx(values, abs=1e-6, nan_ok=True)


def test_share_below_counts_the_others_that_are_lower() -> None:
    assert share_below(np.array([3.0, 1.0, 2.0, 2.0, 0.0], np.float32)).tolist() == [1.0, 0.25, 0.5, 0.5, 0.0]
    assert share_below(np.array([7.0], np.float32)).tolist() == [0.0]
    assert share_below(np.empty(0, np.float32)).tolist() == []


@pytest.mark.parametrize(
    ("minutes_ago", "expected"),
    [
        ([200, 100, 20, 10], 2),
        ([20, 10], 2),
        ([90, 60, 30], 3),  # a pause of just the gap breaks nothing
        ([91, 60.1, 30], 1),
        ([31], 0),
        ([30], 1),
        ([0], 1),
        ([], 0),
    ],
)
def test_a_session_ends_at_the_last_pause_longer_than_the_gap(minutes_ago: list[float], expected: int) -> None:
    history = _history(list(range(len(minutes_ago))), minutes_ago)
    found = current_session(history, START_US + 10 * HOUR_US, 30 * MINUTE_US)

    assert found.item_idx.tolist() == history.item_idx.tolist()[len(minutes_ago) - expected :]


def test_text_compares_a_candidate_with_the_history() -> None:
    columns = _columns(text, _context(_history([0, 2, 1], [300, 20, 10], [1.0, 2.0, 1.0])))

    profile = 0.81 * EMBEDDINGS[0] + 0.9 * 2 * EMBEDDINGS[2] + EMBEDDINGS[1]
    now = 0.9 * 2 * EMBEDDINGS[2] + EMBEDDINGS[1]
    assert columns["text_profile"] == _near((EMBEDDINGS @ profile / np.linalg.norm(profile)).tolist())
    assert columns["text_profile_share_below"] == [0.5, 1.0, 0.75, 0.0, 0.0]
    assert columns["text_session"] == _near((EMBEDDINGS @ now / np.linalg.norm(now)).tolist())
    assert columns["text_last"] == _near([0.6, 1.0, 0.8, 0.0, 0.0])
    assert columns["text_max"] == _near([1.0, 1.0, 1.0, 0.0, 0.0])
    assert columns["text_top3"] == _near([1.6 / 3, 2.4 / 3, 1.8 / 3, 0.0, 0.0])


def test_text_of_a_long_past_history_has_no_session() -> None:
    columns = _columns(text, _context(_history([0], [31])))

    assert np.isnan(columns["text_session"]).all()
    assert columns["text_last"] == _near([1.0, 0.6, 0, 0, 0])
    assert columns["text_top3"] == _near([1.0, 0.6, 0, 0, 0])


def test_content_factors_are_scored_by_the_users_factor() -> None:
    context = _context(_history([1], [10]))
    columns = _columns(text, context)

    expected = (CONTENT @ context.models.factors.fold_in(context.history)).tolist()
    assert columns["text_content_factor"] == _near(expected)
    assert columns["text_content_share_below"] == share_below(np.array(expected, np.float32)).tolist()


@pytest.mark.parametrize("module", [text, collaborative])
def test_without_a_history_there_is_nothing_to_compare_with(module: Any) -> None:
    assert np.isnan(module.compute(_context())).all()


def test_collaborative_scores_compare_factors_and_transitions() -> None:
    context = _context(_history([3, 1, 0], [30, 20, 10]))
    columns = _columns(collaborative, context)
    placed = np.array([[2, 0], [3, 4], [0, 1], [2, 0], [-1, 0]])  # item 3 is cold and lies where its content says

    assert columns["als_score"] == _near((placed @ context.asked.user_factor).tolist())
    assert columns["als_last"] == _near([1.0, 0.6, 0.0, 1.0, -1.0])
    # cosines to items 3, 1 and 0
    assert columns["als_max"] == _near([1.0, 1.0, 0.8, 1.0, -0.6])
    assert columns["als_mean"] == _near([2.6 / 3, 2.2 / 3, 0.8 / 3, 2.6 / 3, -2.6 / 3])
    # 0 votes with weight 1, 1 with 0.5, 3 points nowhere
    assert columns["covisitation_score"] == [0, 3.0, 1.0 + 0.5 * 2, 0, 0]
    assert columns["covisitation_share_below"] == [0, 1.0, 0.75, 0, 0]
    assert columns["covisitation_last"] == [0, 3, 1, 0, 0]
    assert columns["covisitation_second_last"] == [0, 0, 2, 0, 0]
    assert columns["covisitation_third_last"] == [0, 0, 0, 0, 0]
    # items 0, 1 and 3 of the history speak alike
    assert columns["ease_score"] == [1, 1, 1, 0, 0]
    assert columns["ease_share_below"] == [0.5, 0.5, 0.5, 0, 0]
    # the latest two: 0 with weight 1, 1 with 1/2
    assert columns["next_item_score"] == [0, 2, 3, 0, 0]
    assert columns["next_item_share_below"] == [0, 0.75, 1.0, 0, 0]


def test_transitions_of_a_short_history_are_missing_beyond_it() -> None:
    columns = _columns(collaborative, _context(_history([2, 4], [20, 10])))

    assert columns["covisitation_last"] == [1, 0, 0, 0, 0]
    assert columns["covisitation_second_last"] == [0, 0, 0, 0, 5]
    assert np.isnan(columns["covisitation_third_last"]).all()


def test_session_columns_say_how_long_and_how_lately() -> None:
    columns = _columns(session, _context(_history([3, 0, 1], [90, 20, 5]), candidates=[0, 1, 2, 3, 4]))

    assert columns["session_length"] == _near([np.log(3)] * 5)
    assert columns["minutes_since_last"] == _near([np.log(6)] * 5)
    assert columns["n_given_candidates"] == _near([np.log(6)] * 5)
    # The session is items 0 and 1, newest 1: category weights x 1.95 and y 0.95 of 2.9, brand P of both.
    assert columns["session_match_categories"] == _near([1.0, 1.95 / 2.9, 0.95 / 2.9, 0, 0])
    assert columns["session_match_brand"] == _near([1.0, 1.0, 0, 0, 0])


def test_without_a_session_nothing_matches_it() -> None:
    columns = _columns(session, _context(_history([0], [31])))

    assert columns["session_length"] == [0] * 5
    assert columns["minutes_since_last"] == _near([np.log(32)] * 5)
    assert np.isnan(columns["n_given_candidates"]).all()
    assert columns["session_match_categories"] == [0] * 5
    assert np.isnan(_columns(session, _context())["minutes_since_last"]).all()


def test_popularity_counts_whole_hours_before_the_request() -> None:
    columns = _columns(popularity, _context(hours=10))

    # item 0 at 1, 8 and 9.5 h, item 1 at 9 h, item 4 at 11 h: later
    assert columns["popularity_all"] == _near(np.log1p([3, 1, 0, 0, 0]).tolist())
    assert columns["popularity_share_below"] == [1.0, 0.75, 0, 0, 0]
    assert columns["shown_all"] == _near(np.log1p([1, 2, 1, 0, 0]).tolist())
    # a prior of 20 impressions at 5 %
    assert columns["ctr_all"] == _near([1 / 21, 2 / 22, 2 / 21, 1 / 20, 1 / 20])
    assert columns["popularity_2h"] == _near(np.log1p([2, 1, 0, 0, 0]).tolist())
    assert columns["popularity_10h"] == _near(np.log1p([3, 1, 0, 0, 0]).tolist())
    # the window's prior is the item's own rate
    assert columns["ctr_2h"] == _near([20 / 21 / 21, (1 + 20 * 2 / 22) / 22, 2 / 21, 0.05, 0.05])


def test_the_hour_in_progress_does_not_count() -> None:
    columns = _columns(popularity, _context(hours=9.75))

    assert columns["popularity_all"] == _near(np.log1p([2, 0, 0, 0, 0]).tolist())
    assert columns["shown_all"] == _near(np.log1p([0, 0, 1, 0, 0]).tolist())


def test_ages_are_hours_on_a_log_scale_and_missing_for_what_was_never_seen() -> None:
    columns = _columns(popularity, _context(hours=10))

    assert columns["hours_since_seen"] == _near([np.log1p(1), np.log1p(1), NAN, NAN, NAN])
    # first interaction at 1 h, first shown at 9 h, first shown at 4 h
    assert columns["hours_since_first"] == _near([np.log1p(9), np.log1p(1), np.log1p(6), NAN, NAN])
    # item 1 will be created later, item 2 has no date
    assert columns["hours_since_created"] == _near([np.log1p(10), 0, NAN, np.log1p(10), np.log1p(10)])


def test_a_trend_compares_the_windows_rate_with_the_lifetimes() -> None:
    columns = _columns(popularity, _context(hours=10))

    # item 0: 3 in 9 hours, so 2/3 are expected in two hours, and there were 2; a young item lives at least a window
    assert columns["trend_2h"][0] == pytest.approx(np.log(3 / (3 * 2 / 9 + 1)))
    assert columns["trend_2h"][1] == pytest.approx(np.log(2 / 2))
    assert columns["trend_10h"][0] == pytest.approx(np.log(4 / 4))
    assert columns["trend_2h"][3] == 0


def test_item_columns_say_what_an_item_is() -> None:
    columns = _columns(item, _context(rows=np.array([4, 0, 3], np.int32)))

    assert columns["item_text_length"] == _near(np.log1p([0, 7, 4]).tolist())
    assert columns["item_n_attribute_values"] == [1, 3, 0]  # z occurs once and is no label
    assert columns["item_is_warm"] == [1, 1, 0]
    assert columns["item_price"] == [20, 10, 30]
    assert np.isnan(_columns(item, _context())["item_price"][2])


def test_user_columns_compare_candidates_with_the_long_run() -> None:
    columns = _columns(user, _context(_history([0, 3, 0], [5_000, 4_000, 10]), user_idx=1))

    assert columns["user_history_length"] == _near([np.log(4)] * 5)
    usual = (2 * np.log(4) + np.log(1)) / 3
    assert columns["user_mean_popularity"] == _near([usual] * 5)
    assert columns["popularity_against_user"] == _near((np.log1p([3, 1, 0, 0, 0]) - usual).tolist())
    assert columns["times_in_history"] == [2, 0, 0, 1, 0]
    # x and y of item 0 at weights 0.9025 + 1, twice as many values as items with any
    assert columns["user_match_categories"] == _near([1.0, 0.5, 0.5, 0, 0])
    assert columns["user_match_brand"] == _near([1.0, 1.0, 0, 0, 0])
    spread = np.std([10, 20, 30, 20])
    expected = (np.array([10, 20, NAN, 30, 20]) - 50 / 3) / spread
    assert columns["price_against_user"] == _near(expected.tolist())
    assert columns["user_age"] == [40] * 5
    assert columns["user_country"] == [1] * 5


def test_an_unknown_user_without_history_has_a_length_and_nothing_else() -> None:
    columns = _columns(user, _context())

    assert columns["user_history_length"] == [0] * 5
    for name in (
        "user_mean_popularity",
        "popularity_against_user",
        "times_in_history",
        "price_against_user",
        "user_age",
    ):
        assert np.isnan(columns[name]).all(), name
    assert columns["user_match_brand"] == [0] * 5


def test_a_history_whose_items_lack_a_number_has_no_mean_of_it() -> None:
    assert np.isnan(_columns(user, _context(_history([2], [10])))["price_against_user"]).all()


def test_an_attribute_that_is_the_same_for_all_is_not_divided_by_zero() -> None:
    models = _models()
    table = models.catalogue.table.with_columns(pl.lit(7.0).alias("price"))
    models = replace(models, catalogue=Catalogue.from_items(table, ("title",)))
    columns = _columns(user, _context(_history([2], [10]), models=models))

    assert columns["price_against_user"] == [0] * 5


def test_huge_numbers_stay_finite() -> None:
    models = _models()
    table = models.catalogue.table.with_columns(pl.Series("price", [1e300, -1e300, 1.0, 1e38, -1e38]))
    models = replace(models, catalogue=Catalogue.from_items(table, ("title",)))
    context = _context(_history([0, 1, 2], [30, 20, 10]), models=models)

    assert np.isfinite(_columns(user, context)["price_against_user"]).all()
    assert np.isfinite(_columns(item, context)["item_price"]).all()


def test_features_read_only_the_latest_of_a_long_history() -> None:
    long = _columns(user, _context(_history([4, 4, 0, 3, 0, 1], [60, 50, 40, 30, 20, 10])))
    short = _columns(user, _context(_history([0, 3, 0, 1], [40, 30, 20, 10])))

    assert long == _near_columns(short)


def _near_columns(columns: dict[str, list[float]]) -> dict[str, Any]:
    return {name: _near(values) for name, values in columns.items()}


def test_a_catalogue_of_bare_ids_has_features() -> None:
    models = _models()
    bare = Catalogue.from_items(pl.DataFrame({"item_id": list("abcde")}), ("title",))
    models = replace(
        models,
        catalogue=bare,
        item_embeddings=np.zeros((5, 3), np.float32),
        user_attributes=np.empty((2, 0), np.float32),
        user_attribute_names=(),
    )
    path = RankingPath(models)
    rows = path.rows(Request(_history([0, 1], [20, 10]), START_US + 10 * HOUR_US, 0), ALL)

    assert rows.shape == (5, len(path.feature_names))
    assert not np.isinf(rows).any()
    assert not any("match" in name for name in path.feature_names)


def test_names_have_no_punctuation_and_do_not_repeat() -> None:
    models = _models()
    table = models.catalogue.table.rename({"price": "price, €"}).with_columns(
        pl.col("price, €").alias("price (€)"), pl.col("price, €").alias("preis/größe")
    )
    models = replace(models, catalogue=Catalogue.from_items(table, ("title",)))
    items = ItemTable.build(models)
    names = feature_names(models, items)

    assert len(names) == RankingPath(models).rows(Request(History.empty(), 0), ALL).shape[1]
    assert all(name.replace("_", "").isalnum() for name in names)
    assert "item_preis_größe" in names
    assert set(names.values()) == {"text", "collaborative", "sequence", "session", "popularity", "item", "user"}


def test_columns_can_be_left_out_by_name() -> None:
    models, request = _models(), Request(_history([0, 1], [20, 10]), START_US + 10 * HOUR_US, 0)
    whole = RankingPath(models)
    without = ["text_last", "popularity_all"]
    config = models.config.with_overrides({"features.without_columns": without})
    path = RankingPath(replace(models, config=config))

    kept = [place for place, name in enumerate(whole.feature_names) if name not in without]
    assert path.feature_names == tuple(whole.feature_names[place] for place in kept)
    assert np.array_equal(path.rows(request, ALL), whole.rows(request, ALL)[:, kept], equal_nan=True)


def test_a_column_that_there_is_not_cannot_be_left_out() -> None:
    models = _models()
    config = models.config.with_overrides({"features.without_columns": ["text_lst"]})

    with pytest.raises(ConfigError, match="names text_lst, which is no column here; the columns are: t"):
        RankingPath(replace(models, config=config))


def test_similar_items_are_near_in_text_and_in_behaviour() -> None:
    path = RankingPath(_models())
    rows, scores = path.similar(0, 3)

    # mean of text and factor cosine to item 0: item 1 has 0.6 and 0.6, item 3 (cold) 0 and 1, item 4 0 and -1
    assert rows.tolist() == [1, 3, 2]
    assert scores.tolist() == pytest.approx([0.6, 0.5, 0.0])
    assert path.similar(0, 9)[0].tolist() == [1, 3, 2, 4]
    assert path.similar(0, 2, exclude=np.array([1], np.int32))[0].tolist() == [3, 2]


def test_without_a_ranker_the_order_of_retrieval_stands() -> None:
    path = RankingPath(_models())
    request = Request(_history([0], [10]), START_US + 10 * HOUR_US)
    ranking = path.rank(request, exclude=np.array([0], np.int32))

    assert ranking.item_idx.tolist() == path.candidates(request, exclude=np.array([0], np.int32)).item_idx.tolist()
    assert (np.diff(ranking.score) < 0).all()
    assert 0 not in ranking.item_idx
    assert ranking.features.shape == (len(ranking.item_idx), len(path.feature_names))


def test_a_recorded_event_counts_once_its_hour_is_over() -> None:
    path = RankingPath(_models())
    path.record(3, START_US + int(9.2 * HOUR_US), kind="interactions", weight=2.0)
    place = path.feature_names.index("popularity_all")

    for hours, expected in ((9.9, 0.0), (10.0, np.log1p(2))):
        rows = path.rows(Request(History.empty(), START_US + int(hours * HOUR_US)), ALL)
        assert rows[3, place] == pytest.approx(expected)
