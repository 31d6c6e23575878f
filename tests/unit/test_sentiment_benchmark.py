"""The sentiment benchmark: what TF-IDF gets, what too little data gives, and what is written."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import MagicMock

import numpy as np
import polars as pl
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks import sentiment
from benchmarks.sentiment import as_json, benchmark_config, measure_head, measure_lists, tfidf_held_out
from recsys.config import Config
from recsys.datasets.dataset import Dataset
from recsys.errors import DataError
from recsys.histories import InteractionLog
from recsys.models.sentiment import RatingScale
from recsys.splits import Fold
from training.desk import Desk
from training.progress import Reporter
from training.requests import LabelledRequest
from training.sentiment import RatedReviews, SentimentFit, fit_sentiment
from training.timings import StageClock
from training.work import WorkFolder

N = 240
NO_ITEM = np.zeros(4, np.int32)


@pytest.fixture(scope="module")
def users() -> np.ndarray:
    return (np.arange(N) // 4).astype(np.int32)


@pytest.fixture(scope="module")
def is_positive() -> np.ndarray:
    return np.random.default_rng(3).random(N) < 0.7


@pytest.fixture(scope="module")
def fit(users: np.ndarray, is_positive: np.ndarray) -> SentimentFit:
    embeddings = np.random.default_rng(1).normal(size=(N, 3)).astype(np.float32)
    reviews = RatedReviews(embeddings, np.where(is_positive, 5.0, 1.0), users, "toy")
    return fit_sentiment(reviews, RatingScale(1.0, 5.0), np.random.SeedSequence(4))


def test_tfidf_chooses_its_penalty_on_the_users_that_the_head_does(
    users: np.ndarray, is_positive: np.ndarray, fit: SentimentFit, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[np.ndarray, np.ndarray]] = []
    vectors = sentiment._tfidf

    def recorded(texts: Sequence[str], known: np.ndarray, tested: np.ndarray) -> Any:
        asked.append((known, tested))
        return vectors(texts, known, tested)

    monkeypatch.setattr(sentiment, "_tfidf", recorded)
    tfidf_held_out(["some word"] * N, is_positive, users, fit)

    assert len(asked) == 5 * (4 + 1)
    for number in range(5):
        outer = {user for user, fold in fit.fold_of_user.items() if fold == number}
        parts = asked[5 * number : 5 * number + 4]
        for part, (known, tested) in enumerate(parts):
            assert set(users[tested]) == {user for user, inner in fit.inner_folds[number].items() if inner == part}
            assert set(users[known]) == set(users) - outer - set(users[tested])
        assert set(users[asked[5 * number + 4][1]]) == outer


def test_tfidf_takes_a_weak_penalty_where_words_tell_and_a_strong_one_where_they_do_not(
    users: np.ndarray, is_positive: np.ndarray, fit: SentimentFit
) -> None:
    rng = np.random.default_rng(5)
    noise = [" ".join(rng.choice(list("bcdefgh"), 5)) + " word" for _ in range(N)]
    telling = [f"{'lovely' if good else 'broken'} {text}" for good, text in zip(is_positive, noise, strict=True)]

    clear, weak = tfidf_held_out(telling, is_positive, users, fit)
    vague, strong = tfidf_held_out([text.replace(" ", "x y") for text in noise], is_positive, users, fit)

    assert ((clear > 0.5) == is_positive).all()
    assert weak == [0.1] * 5
    assert min(strong) > 0.1
    assert vague.std() < clear.std()


@pytest.mark.parametrize("texts", [["good"] * 5, [None] * 5])
def test_too_few_reviews_are_a_data_error(texts: list[str | None], tmp_path: Path) -> None:
    stars = [5.0, 5.0, 5.0, 1.0, 5.0]
    table = pl.DataFrame(
        {
            "user_id": [f"u{n}" for n in range(5)],
            "item_id": ["i"] * 5,
            "event": ["rating"] * 5,
            "value": stars,
            "text": pl.Series(texts, dtype=pl.String),
            "timestamp": pl.Series(range(5)).cast(pl.Datetime("us", "UTC")),
        }
    )
    dataset = Dataset(pl.DataFrame({"item_id": ["i"], "title": ["t"]}), table)
    encoder = SimpleNamespace(
        fingerprint="toy", embedding_size=2, encode=lambda texts: np.ones((len(texts), 2), np.float32)
    )
    text = cast("Any", SimpleNamespace(encoder=encoder))
    n = sum(text is not None for text in texts)

    with StageClock() as clock:
        desk = Desk(WorkFolder(tmp_path), Reporter(quiet=True), clock)
        with pytest.raises(DataError, match=f"{n} reviews with a rating and a text are too few on one side of the mid"):
            measure_head(dataset, benchmark_config(1, "auto"), desk, text, "key")


def test_a_cost_at_which_nothing_is_called_a_complaint_has_no_precision() -> None:
    found = sentiment._by_cost(np.array([True, False]), np.array([0.9999, 0.9999]))

    written = json.loads(as_json({"by_cost": found}), parse_constant=pytest.fail)

    assert written["by_cost"]["1"] == {"called": 0, "recall": 0.0, "precision": None}


def test_seeds_that_differ_on_a_complaint_leave_its_user_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four users; one seed's head takes user 1's last event for a complaint, and user 3 has nothing new to find."""
    place = np.arange(4)
    everything = InteractionLog(place.astype(np.int32), NO_ITEM, place, np.ones(4, np.float32), place + 10, 4, 1)

    def corpus(_: Dataset, config: Config, *__: Any) -> Any:
        is_liked = (place != 1) | (config.data.sentiment == "off") | (config.seed != 2)
        split = SimpleNamespace(interaction_fold=np.full(int(is_liked.sum()), Fold.TEST))
        return SimpleNamespace(data=SimpleNamespace(log=everything.select(is_liked)), split=split)

    def rank(corpus: Any, target: int) -> LabelledRequest | None:
        return None if corpus.data.log.user_idx[target] == 3 else cast("Any", corpus.data.log.user_idx[target])

    monkeypatch.setattr(sentiment, "_corpus", corpus)
    monkeypatch.setattr(sentiment, "_request", rank)
    monkeypatch.setattr(
        sentiment, "_ndcg", lambda _, asked: np.array([np.nan if one is None else 0.5 for one in asked])
    )
    monkeypatch.setattr(sentiment, "train_on_past", lambda *_: SimpleNamespace(ranker=None))
    monkeypatch.setattr(sentiment, "RankingPath", lambda _: None)
    monkeypatch.setattr(sentiment, "Fits", lambda *_: MagicMock())
    with StageClock() as clock:
        desk = Desk(WorkFolder(tmp_path), Reporter(quiet=True), clock)
        found = measure_lists(cast("Any", None), 0, cast("Any", None), desk, "key")

    assert found["n_requests"] == 2
    assert found["users_left_out"] == {"last event is a complaint": 1, "nothing new to find": 1}
