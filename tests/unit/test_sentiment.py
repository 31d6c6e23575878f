import numpy as np
import pytest

from recsys.models.sentiment import RatingScale
from training.sentiment import RatedReviews, can_learn, describe, fit_sentiment

SCALE = RatingScale(1.0, 5.0)
SEED = np.random.SeedSequence(4)


def reviews(n: int = 600, *, seed: int = 1, signal: float = 4.0) -> RatedReviews:
    """Embeddings of 12 numbers whose first tells the rating; one review in ten or so is a complaint."""
    rng = np.random.default_rng(seed)
    embeddings = rng.normal(size=(n, 12)).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    is_pleased = rng.random(n) < 1 / (1 + np.exp(-(signal * embeddings[:, 0] + 2.2)))
    rating = np.where(is_pleased, rng.choice([4.0, 5.0], n), rng.choice([1.0, 2.0, 3.0], n))
    return RatedReviews(embeddings, rating, (np.arange(n) // 5).astype(np.int32), "toy")


def test_head_finds_what_tells_the_rating_and_keeps_the_base_rate():
    given = reviews()
    fit = fit_sentiment(given, SCALE, SEED)
    assert int(np.abs(fit.head.weights).argmax()) == 0
    assert fit.head.weights[0] > 0
    is_pleased = given.rating > 3
    assert fit.head.probability(given.embeddings).mean() == pytest.approx(is_pleased.mean(), abs=1e-3)
    assert fit.beats_base_rate
    assert fit.report["n_complaints"] == int((~is_pleased).sum())


def test_texts_that_say_nothing_do_not_beat_the_base_rate():
    fit = fit_sentiment(reviews(signal=0.0), SCALE, SEED)
    assert not fit.beats_base_rate
    assert fit.report["auc"]["lo"] < 0.5 < fit.report["auc"]["hi"]


def test_a_users_own_ratings_do_not_teach_the_head_that_reads_them():
    given = reviews(300)
    mine = given.user_idx == 7
    # Somebody who complains in either case, so that the users' folds stay as they are.
    mixed, turned = given.rating.copy(), given.rating.copy()
    mixed[mine], turned[mine] = [1.0, 5.0, 5.0, 5.0, 5.0], [1.0, 1.0, 1.0, 1.0, 5.0]
    first, second = (
        fit_sentiment(RatedReviews(given.embeddings, rating, given.user_idx, "toy"), SCALE, SEED)
        for rating in (mixed, turned)
    )
    assert first.fold_of_user == second.fold_of_user
    np.testing.assert_array_equal(
        first.fold_heads[first.fold_of_user[7]].weights, second.fold_heads[second.fold_of_user[7]].weights
    )
    assert not np.array_equal(first.head.weights, second.head.weights)


def test_users_without_reviews_are_read_by_the_head_of_all():
    given = reviews(300)
    fit = fit_sentiment(given, SCALE, SEED)
    stranger = np.full(300, 9_999, np.int32)
    np.testing.assert_array_equal(fit.score(given.embeddings, stranger), fit.head.score(given.embeddings))


def test_complaint_cost_follows_the_odds_unless_it_is_set():
    given = reviews()
    odds = (given.rating > 3).sum() / (given.rating <= 3).sum()
    assert fit_sentiment(given, SCALE, SEED).head.complaint_cost == pytest.approx(np.sqrt(odds))
    wary = fit_sentiment(given, SCALE, SEED, complaint_cost=30.0)
    assert wary.report["called_complaints"] > fit_sentiment(given, SCALE, SEED).report["called_complaints"]


def test_same_seed_gives_the_same_head():
    first, second = (fit_sentiment(reviews(), SCALE, np.random.SeedSequence(9)) for _ in range(2))
    np.testing.assert_array_equal(first.head.weights, second.head.weights)
    assert first.report == second.report


def test_too_few_complaints_are_refused():
    given = reviews(100, signal=0.0)
    few = RatedReviews(given.embeddings, np.where(np.arange(100) < 19, 1.0, 5.0), given.user_idx, "toy")
    assert not can_learn(few, SCALE)
    with pytest.raises(ValueError, match="100 rated reviews are too few on one side"):
        fit_sentiment(few, SCALE, SEED)


def test_complaints_of_a_handful_of_users_are_not_enough():
    given = reviews(200)
    rating = np.where(given.user_idx < 5, 1.0, 5.0)
    assert (rating < 3).sum() >= 20
    assert not can_learn(RatedReviews(given.embeddings, rating, given.user_idx, "toy"), SCALE)


def test_calibration_slope_tells_timid_probabilities():
    rng = np.random.default_rng(2)
    logits = rng.normal(size=4_000) * 2
    outcome = rng.random(4_000) < 1 / (1 + np.exp(-logits))
    base, users = np.full(4_000, outcome.mean()), np.arange(4_000)
    right = describe(outcome, 1 / (1 + np.exp(-logits)), base, users, np.random.default_rng(1))
    timid = describe(outcome, 1 / (1 + np.exp(-logits / 2)), base, users, np.random.default_rng(1))
    assert right["calibration_slope"] == pytest.approx(1.0, abs=0.1)
    assert timid["calibration_slope"] == pytest.approx(2.0, abs=0.2)
