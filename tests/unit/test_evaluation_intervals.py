"""Bootstrap intervals: coverage on simulated samples, clusters, pairs, undefined values, and every error."""

import math
from typing import Any

import numpy as np
import pytest

from recsys.evaluation.intervals import Interval, bootstrap_mean, bootstrap_means, paired_difference
from recsys.evaluation.metrics import EvaluationError


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_the_interval_covers_the_true_mean_about_as_often_as_it_says() -> None:
    generator = rng(17)
    covered = 0
    for _ in range(200):
        sample = generator.beta(1.0, 4.0, size=80)  # skewed, like a ranking metric; true mean 1/5
        interval = bootstrap_mean(sample, n_bootstrap=400, rng=generator)
        covered += interval.lo <= 0.2 <= interval.hi

    assert 0.88 <= covered / 200 <= 0.99


def clustered_sample(generator: np.random.Generator) -> tuple[Any, Any]:
    """Forty users with 1 to 12 requests each, whose values mostly come from the user; true mean 0."""
    n_requests = generator.integers(1, 13, size=40)
    users = np.repeat(np.arange(40), n_requests)
    return generator.normal(size=40)[users] + 0.3 * generator.normal(size=len(users)), users


def test_resampling_users_covers_where_resampling_requests_does_not() -> None:
    generator = rng(5)
    by_user = by_request = 0
    for _ in range(200):
        values, users = clustered_sample(generator)
        wide = bootstrap_mean(values, clusters=users, n_bootstrap=300, rng=generator)
        narrow = bootstrap_mean(values, n_bootstrap=300, rng=generator)
        assert wide.mean == narrow.mean == pytest.approx(values.mean())
        by_user += wide.lo <= 0.0 <= wide.hi
        by_request += narrow.lo <= 0.0 <= narrow.hi

    assert 0.85 <= by_user / 200 <= 0.99
    assert by_request / 200 < 0.75


def test_a_higher_confidence_gives_a_wider_interval() -> None:
    values = rng(1).normal(size=50)

    narrow = bootstrap_mean(values, confidence=0.5, rng=rng(2))
    wide = bootstrap_mean(values, confidence=0.99, rng=rng(2))

    assert wide.lo < narrow.lo < narrow.mean < narrow.hi < wide.hi


def test_the_width_is_that_of_the_normal_theory_for_a_large_sample() -> None:
    values = rng(3).normal(loc=2.0, scale=0.5, size=3000)

    interval = bootstrap_mean(values, n_bootstrap=2000, rng=rng(4))

    assert interval.n == 3000
    assert interval.hi - interval.lo == pytest.approx(2 * 1.96 * values.std() / math.sqrt(3000), rel=0.08)


def test_the_mean_of_a_resample_is_one_over_the_requests_drawn() -> None:
    users = np.repeat(np.arange(4), [1, 9, 2, 30])

    interval = bootstrap_mean(np.full(42, 0.75), clusters=users, rng=rng(5))

    # Whoever is drawn, every request has the same value; dividing by anything else would spread the bounds.
    assert (interval.lo, interval.hi) == pytest.approx((0.75, 0.75))


def test_clusters_of_one_request_each_change_nothing() -> None:
    values = rng(6).random(30)
    users = np.array([f"u{i:02d}" for i in range(30)])

    assert bootstrap_mean(values, clusters=users, rng=rng(7)) == bootstrap_mean(values, rng=rng(7))


def test_users_may_be_named_or_numbered() -> None:
    values, users = clustered_sample(rng(8))
    names = [f"user-{number:03d}" for number in users]

    assert bootstrap_mean(values, clusters=names, rng=rng(9)) == bootstrap_mean(values, clusters=users, rng=rng(9))


def test_the_same_seed_gives_the_same_interval_and_another_seed_another() -> None:
    values = rng(10).random(40)

    assert bootstrap_mean(values, rng=rng(1)) == bootstrap_mean(values, rng=rng(1))
    assert bootstrap_mean(values, rng=rng(1)) != bootstrap_mean(values, rng=rng(2))


def test_more_resamples_than_fit_into_one_chunk_are_all_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    values, users = clustered_sample(rng(11))
    whole = bootstrap_mean(values, clusters=users, n_bootstrap=999, rng=rng(12))

    monkeypatch.setattr("recsys.evaluation.intervals._CHUNK_DRAWS", 40 * 7)
    chunked = bootstrap_mean(values, clusters=users, n_bootstrap=999, rng=rng(12))

    assert (chunked.lo, chunked.hi) == pytest.approx((whole.lo, whole.hi), abs=0.03)


@pytest.mark.parametrize("clusters", [None, ["u1"]])
def test_one_user_has_a_mean_without_bounds(clusters: list[str] | None) -> None:
    interval = bootstrap_mean([0.4], clusters=clusters, rng=rng())

    assert (interval.mean, interval.n) == (0.4, 1)
    assert math.isnan(interval.lo)
    assert math.isnan(interval.hi)
    assert not interval.excludes_zero


@pytest.mark.parametrize(
    ("lo", "hi", "excludes"),
    [(0.01, 0.2, True), (-0.2, -0.01, True), (-0.1, 0.1, False), (0.0, 0.1, False), (math.nan, math.nan, False)],
)
def test_excludes_zero_looks_at_the_bounds(lo: float, hi: float, excludes: bool) -> None:
    assert Interval(0.05, lo, hi, 9).excludes_zero is excludes


@pytest.mark.parametrize(
    ("interval", "text"),
    [
        (Interval(0.1846, 0.1755, 0.1944, 900), "0.185 [0.175, 0.194]"),
        (Interval(0.1846, math.nan, math.nan, 1), "0.185"),
        (Interval(math.nan, math.nan, math.nan, 12), "n = 12"),
    ],
)
def test_an_interval_reads_as_text(interval: Interval, text: str) -> None:
    assert str(interval) == text


def test_a_planted_difference_excludes_zero_and_none_mostly_does_not() -> None:
    generator = rng(13)
    found = alarms = 0
    for _ in range(100):
        hard = generator.normal(size=60)  # what makes a request easy or hard, for both systems
        noise = generator.normal(scale=0.2, size=(3, 60))
        found += paired_difference(hard + noise[0] + 0.1, hard + noise[1], n_bootstrap=300, rng=generator).excludes_zero
        alarms += paired_difference(hard + noise[2], hard + noise[1], n_bootstrap=300, rng=generator).excludes_zero

    assert found >= 60  # the difference is 2.7 standard errors of the paired mean
    assert alarms <= 14


def test_pairing_sees_what_two_separate_intervals_do_not() -> None:
    hard = rng(14).normal(size=200)
    a, b = hard + 0.05, hard + rng(15).normal(scale=0.02, size=200)

    difference = paired_difference(a, b, rng=rng(16))
    apart = bootstrap_mean(a, rng=rng(16)), bootstrap_mean(b, rng=rng(16))

    assert difference.excludes_zero
    assert difference.mean == pytest.approx(0.05, abs=0.01)
    assert apart[0].lo < apart[1].hi


def test_the_difference_changes_sign_with_the_order_of_the_systems() -> None:
    a, b = rng(17).random(25), rng(18).random(25)

    forth, back = paired_difference(a, b, rng=rng(19)), paired_difference(b, a, rng=rng(19))

    assert (forth.mean, forth.lo, forth.hi) == pytest.approx((-back.mean, -back.hi, -back.lo))


def test_undefined_values_are_left_out_and_counted_when_asked() -> None:
    values = np.array([0.1, math.nan, 0.5, 0.3])
    users = ["a", "b", "a", "c"]

    interval = bootstrap_mean(values, clusters=users, rng=rng(20), undefined="skip")
    kept = bootstrap_mean([0.1, 0.5, 0.3], clusters=["a", "a", "c"], rng=rng(20))

    assert interval == kept
    assert interval.n == 3
    assert paired_difference(values, values - 0.5, rng=rng(), undefined="skip").n == 3


def test_all_metrics_of_a_table_see_the_same_resamples() -> None:
    hits = rng(21).random(50)
    alone = bootstrap_means({"hr@10": hits}, rng=rng(22))
    beside = bootstrap_means({"mrr": rng(23).random(50), "hr@10": hits}, rng=rng(22))

    assert beside["hr@10"] == alone["hr@10"]


def test_a_metric_with_too_few_values_has_its_count_only() -> None:
    values = np.array([0.5, math.nan, 0.25, 0.75])

    table = bootstrap_means({"auc": values, "mrr": np.arange(4.0)}, rng=rng(), min_requests=4)
    nothing = bootstrap_means({"auc": np.full(3, math.nan)}, rng=rng(), min_requests=0)["auc"]

    assert table["auc"].n == 3
    assert math.isnan(table["auc"].mean)
    assert (table["mrr"].n, table["mrr"].mean) == (4, 1.5)
    assert nothing.n == 0


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        ([], {}, "no values to take a mean of; check that the test window"),
        ([math.nan], {"undefined": "skip"}, "no values to take a mean of"),
        ([0.1, math.nan, 0.2], {}, r"1 of 3 values are NaN or infinite, the first at \[1\].*undefined='skip'"),
        ([0.1, math.inf], {"undefined": "skip"}, "1 of 2 values are NaN or infinite"),
        ([0.1, 0.2], {"clusters": ["u1"]}, "2 values but 1 clusters; name the user"),
        ([[0.1, 0.2]], {}, r"values have shape \(1, 2\)"),
        ([0.1, 0.2], {"n_bootstrap": 0}, "n_bootstrap is 0; draw at least one"),
        ([0.1, 0.2], {"confidence": 95}, "confidence is 95; it is a share between 0 and 1"),
    ],
)
def test_what_has_no_interval_is_refused(values: list[float], options: dict[str, Any], message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        bootstrap_mean(values, rng=rng(), **options)


def test_pairs_of_different_requests_are_refused() -> None:
    with pytest.raises(EvaluationError, match=r"a has shape \(2,\) and b \(3,\); a paired difference needs both"):
        paired_difference([0.1, 0.2], [0.1, 0.2, 0.3], rng=rng())
    with pytest.raises(EvaluationError, match=r"1 requests have a value for one system only, the first at \[0\]"):
        paired_difference([math.nan, 0.2], [0.1, 0.2], rng=rng(), undefined="skip")
