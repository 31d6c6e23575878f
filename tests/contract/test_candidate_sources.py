"""What every candidate source promises, over exact and over approximate vector search."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

from recsys.histories import History, Request
from recsys.models.fitted import FittedModels
from recsys.retrieval.asked import history_profile
from recsys.retrieval.blend import blend
from recsys.retrieval.sources import CandidateSource, build_sources

SOURCES = ("als", "ease", "next_item", "sequence", "covisitation", "text", "popular", "cold")
EXACT_BELOW = {"exact": 1_000_000, "inverted": 1}
NOTHING = np.empty(0, np.int32)


@dataclass(frozen=True)
class Case:
    """One source over one kind of index."""

    source: CandidateSource
    models: FittedModels

    @property
    def n_items(self) -> int:
        return len(self.models.catalogue)

    def requests(self) -> list[Request]:
        """Users with a long, a middling and a short history, at the end of the log, and an unknown one."""
        log = self.models.log
        as_of = int(log.timestamp_us.max()) + 1
        lengths = np.diff(log.indptr)
        users = [int(np.flatnonzero(lengths == n)[0]) for n in (lengths.max(), np.median(lengths[lengths > 1]) // 1, 1)]
        session = History(np.array([3, 140], np.int32), np.array([as_of - 9, as_of - 5]), np.ones(2, np.float32))
        return [Request(log.history_of(user), as_of, user) for user in users] + [Request(session, as_of)]


def _case(name: str, index: str, models: FittedModels) -> Case:
    settings = {"retrieval.sources": [name], "retrieval.exact_below": EXACT_BELOW[index]}
    models = replace(models, config=models.config.with_overrides(settings))
    (source,) = build_sources(models)
    assert source.name == name
    return Case(source, models)


@pytest.fixture(scope="module", params=[(name, index) for name in SOURCES for index in EXACT_BELOW], ids="-".join)
def case(request: pytest.FixtureRequest, tiny_models: FittedModels) -> Case:
    return _case(*request.param, tiny_models)


@pytest.fixture(scope="module", params=SOURCES)
def exact_case(request: pytest.FixtureRequest, tiny_models: FittedModels) -> Case:
    """For what approximate search does not promise; how near it comes is tested in tests/unit/test_index.py."""
    return _case(request.param, "exact", tiny_models)


@pytest.mark.parametrize("n", [1, 7, 60])
def test_at_most_n_different_rows_of_the_catalogue_come(case: Case, n: int) -> None:
    for request in case.requests():
        rows = case.source.retrieve(request, n)

        assert rows.dtype == np.int32
        assert rows.ndim == 1
        assert len(rows) <= n
        assert len(np.unique(rows)) == len(rows)
        assert ((rows >= 0) & (rows < case.n_items)).all()


def test_a_history_brings_candidates(case: Case) -> None:
    assert all(len(case.source.retrieve(request, 5)) for request in case.requests()[:2])


def test_the_best_come_first_by_the_sources_own_scores(case: Case) -> None:
    for request in case.requests():
        scores = case.source.score_all(request)
        found = scores[case.source.retrieve(request, 25)]

        assert (np.diff(found) <= 1e-5 * np.abs(scores).max()).all()


def test_nothing_better_is_passed_over(exact_case: Case) -> None:
    case = exact_case
    for request in case.requests():
        scores = case.source.score_all(request)
        rows = case.source.retrieve(request, 25)
        eligible = np.ones(case.n_items, np.bool_)
        if case.source.name == "cold":
            eligible = ~case.models.factors.is_warm
        eligible[rows] = False
        if len(rows) == 25:
            assert scores[eligible].max() <= scores[rows].min() + 1e-5 * np.abs(scores).max()


def test_scores_are_one_finite_number_per_item(case: Case) -> None:
    for request in [*case.requests(), Request(History.empty(), 0)]:
        scores = case.source.score_all(request)

        assert scores.shape == (case.n_items,)
        assert scores.dtype == np.float32
        assert np.isfinite(scores).all()


@pytest.mark.parametrize("as_of_us", [0, 2_000_000_000_000_000])
def test_without_a_history_there_is_nothing_but_popularity(case: Case, as_of_us: int) -> None:
    rows = case.source.retrieve(Request(History.empty(), as_of_us), 10)

    assert rows.dtype == np.int32
    assert len(rows) == (10 if case.source.name == "popular" else 0)


@pytest.mark.parametrize("n", [149, 150, 151, 100_000])
def test_more_than_the_catalogue_holds_gives_no_more_than_that(case: Case, n: int) -> None:
    for request in case.requests():
        rows = case.source.retrieve(request, n)

        assert len(np.unique(rows)) == len(rows) <= min(n, case.n_items)
        assert (rows >= 0).all()


def test_the_same_request_gives_the_same_rows_again(case: Case) -> None:
    requests = case.requests()
    first = [case.source.retrieve(request, 20).tolist() for request in requests]
    for request in reversed(requests):
        case.source.score_all(request)

    assert [case.source.retrieve(request, 20).tolist() for request in requests] == first


def test_a_source_built_again_gives_the_same_rows(case: Case) -> None:
    (again,) = build_sources(case.models)

    for request in case.requests():
        assert again.retrieve(request, 20).tolist() == case.source.retrieve(request, 20).tolist()


def test_asking_changes_neither_the_request_nor_the_models(case: Case) -> None:
    (request, *_) = case.requests()
    arrays = (
        request.history.item_idx,
        request.history.weight,
        case.models.item_embeddings,
        case.models.factors.placed,
        case.models.covisitation.transitions.data,
    )
    before = [array.tobytes() for array in arrays]
    case.source.retrieve(request, 20)
    case.source.score_all(request)

    assert [array.tobytes() for array in arrays] == before


def test_fewer_are_the_beginning_of_more(exact_case: Case) -> None:
    for request in exact_case.requests():
        more = exact_case.source.retrieve(request, 40)
        assert exact_case.source.retrieve(request, 5).tolist() == more[:5].tolist()


def test_excluded_items_never_come_out_of_the_blend(case: Case) -> None:
    settings = case.models.config.retrieval
    for request in case.requests():
        exclude = case.source.retrieve(request, 40)[::2]
        found = blend([case.source], request, settings, n_items=case.n_items, exclude=exclude)

        assert not np.isin(found.item_idx, exclude).any()
        assert len(found) <= settings.per_source
        assert all(found.names_of(place) == [case.source.name] for place in range(len(found)))


def test_a_blend_of_one_source_keeps_its_order(case: Case) -> None:
    settings = case.models.config.retrieval
    for request in case.requests():
        found = blend([case.source], request, settings, n_items=case.n_items, exclude=NOTHING)

        assert found.item_idx.tolist() == case.source.retrieve(request, settings.per_source).tolist()


def test_candidates_of_the_request_itself_are_kept_exactly(case: Case) -> None:
    given = np.array([149, 0, 77, 3], np.int32)
    for request in case.requests():
        asked = replace(request, candidates=given)
        found = blend([case.source], asked, case.models.config.retrieval, n_items=case.n_items, exclude=given[:2])

        assert found.item_idx.tolist() == given.tolist()
        assert not found.sources.any()


def test_all_sources_together_blend_without_repeats(tiny_models: FittedModels) -> None:
    sources = build_sources(tiny_models)
    assert tuple(source.name for source in sources) == SOURCES
    case = Case(sources[0], tiny_models)
    for request in case.requests():
        found = blend(sources, request, tiny_models.config.retrieval, n_items=case.n_items, exclude=NOTHING)

        assert len(np.unique(found.item_idx)) == len(found) <= tiny_models.config.retrieval.n_candidates
        for place, row in enumerate(found.item_idx):
            proposing = [source.name for source in sources if row in source.retrieve(request, 30)]
            assert found.names_of(place) == proposing


def test_the_cold_source_proposes_only_items_without_factors_of_their_own(tiny_models: FittedModels) -> None:
    case = _case("cold", "exact", tiny_models)
    rows = case.source.retrieve(case.requests()[0], 1_000)

    assert sorted(rows.tolist()) == np.flatnonzero(~tiny_models.factors.is_warm).tolist()


def test_popularity_follows_the_moment_and_live_events(tiny_models: FittedModels) -> None:
    counters = tiny_models.counters
    models = replace(tiny_models, counters=type(counters)(counters.interactions, counters.shown, counters.clicked))
    sources = {source.name: source for source in build_sources(models)}
    end = int(models.log.timestamp_us.max())
    hour = 3_600_000_000
    now = Request(History.empty(), end + 2 * hour)
    before = sources["popular"].score_all(now).copy()
    for _ in range(50):
        models.counters.record(149, end + hour, kind="interactions", weight=4.0)

    assert sources["popular"].retrieve(now, 1).tolist() == [149]
    assert sources["popular"].score_all(now)[149] == pytest.approx(before[149] + 200.0, abs=1.0)
    early = Request(History.empty(), int(models.log.timestamp_us.min()))
    assert not sources["popular"].score_all(early).any()


def test_a_profile_is_the_decayed_mean_at_length_one() -> None:
    vectors = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 2]], np.float32)
    history = History(np.array([0, 1, 2], np.int32), np.arange(3), np.array([4, 2, 1], np.float32))

    expected = np.array([0.81 * 4, 0.9 * 2, 1.0 * 2])
    np.testing.assert_allclose(history_profile(vectors, history), expected / np.linalg.norm(expected), rtol=1e-6)
    assert history_profile(vectors, History.empty()).tolist() == [0, 0, 0]


def test_a_profile_of_items_without_text_is_zero() -> None:
    history = History(np.array([1, 1], np.int32), np.arange(2), np.ones(2, np.float32))

    assert history_profile(np.zeros((3, 4), np.float32), history).tolist() == [0] * 4


def test_a_profile_forgets_what_is_long_past() -> None:
    vectors = np.eye(2, dtype=np.float32)
    history = History(np.array([1] * 5 + [0] * 30, np.int32), np.arange(35), np.ones(35, np.float32))

    assert history_profile(vectors, history).tolist() == [1.0, 0.0]
