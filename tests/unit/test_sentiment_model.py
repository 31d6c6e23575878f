import numpy as np
import pytest

from recsys.errors import EncoderError
from recsys.models.sentiment import RatingScale, SentimentHead, review_signal, signed_weight

SCALE = RatingScale(1.0, 5.0)
EMBEDDINGS = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]], np.float32)


def head(cost: float = 1.0) -> SentimentHead:
    return SentimentHead(np.array([2.0, -2.0, 0.0], np.float32), 0.0, SCALE, "encoder-a", cost)


def test_score_is_twice_the_probability_less_one():
    expected = 2 / (1 + np.exp(-2)) - 1
    scores = head().score(EMBEDDINGS)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, [expected, -expected, 0, 0], atol=1e-6)


def test_a_complaint_cost_lowers_scores_and_keeps_their_order():
    plain, wary = head().score(EMBEDDINGS), head(4.0).score(EMBEDDINGS)
    odds = np.exp(2)
    np.testing.assert_allclose(wary[:3], [(odds - 4) / (odds + 4), (1 / odds - 4) / (1 / odds + 4), -0.6], atol=1e-6)
    assert (wary[:3] < plain[:3]).all()
    assert list(np.argsort(wary[:3])) == list(np.argsort(plain[:3]))


def test_a_text_without_anything_to_read_says_nothing_at_any_cost():
    assert head(9.0).score(EMBEDDINGS)[3] == 0.0


def test_scale_puts_the_middle_at_zero_and_keeps_missing_ratings_missing():
    signal = RatingScale(0.5, 4.5).signal(np.array([0.5, 2.5, 3.5, 4.5, 9.0, np.nan]))
    np.testing.assert_allclose(signal, [-1, 0, 0.5, 1, 1, np.nan])


def test_rating_counts_three_quarters_beside_a_text_and_alone_without_one():
    nan = np.nan
    signal = review_signal(np.array([1.0, 0.0, nan, -0.5, nan]), np.array([-1.0, 0.8, 0.4, nan, nan]))
    np.testing.assert_allclose(signal, [0.5, 0.2, 0.4, -0.5, nan])


def test_no_text_turns_a_clear_rating_into_its_opposite():
    two_stars, four_stars = SCALE.signal(np.array([2.0, 4.0]))
    assert review_signal(np.array([two_stars]), np.array([1.0]))[0] < 0
    assert review_signal(np.array([four_stars]), np.array([-1.0]))[0] > 0


def test_complaints_weigh_nothing_and_events_without_a_signal_what_they_weighed():
    weights = signed_weight(np.array([4.0, 4.0, 1.5, 2.0]), np.array([0.5, -0.9, np.nan, 0.0]))
    assert weights.dtype == np.float32
    np.testing.assert_allclose(weights, [2.0, 0.0, 1.5, 0.0])


def test_a_saved_head_scores_as_before(tmp_path):
    head(3.0).save(tmp_path / "sentiment.npz")
    loaded = SentimentHead.load(tmp_path / "sentiment.npz", "encoder-a")
    np.testing.assert_array_equal(loaded.score(EMBEDDINGS), head(3.0).score(EMBEDDINGS))
    assert (loaded.scale, loaded.complaint_cost) == (SCALE, 3.0)


def test_a_head_of_another_encoder_is_refused(tmp_path):
    head().save(tmp_path / "sentiment.npz")
    with pytest.raises(EncoderError, match="of encoder encoder-a, not of encoder-b"):
        SentimentHead.load(tmp_path / "sentiment.npz", "encoder-b")


def test_a_file_that_is_no_head_is_refused(tmp_path):
    np.savez(tmp_path / "sentiment.npz", weights=np.zeros(3))
    with pytest.raises(EncoderError, match="sentiment head cannot be read"):
        SentimentHead.load(tmp_path / "sentiment.npz", "encoder-a")
