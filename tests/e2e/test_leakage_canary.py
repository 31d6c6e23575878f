"""The answer is planted in the future of every test request. It must stay useless, unless a guard is sabotaged."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from features.path import RankingPath
from recsys.counters import BucketCounts
from recsys.datasets.encoded import EncodedData
from recsys.evaluation.metrics import list_metrics
from recsys.histories import ImpressionLog, InteractionLog
from recsys.models.ranker import Ranker
from recsys.splits import Fold, Split, make_split
from training.fitting import Corpus, fit_models, requests_of
from training.ranker import RankerRows, build_rows, train_ranker

MINUTE_US = 60_000_000
HOUR_US = 60 * MINUTE_US
SEED = np.random.SeedSequence(11)
# When the planted events happen, after a request: at the same moment, in the same hour, and later.
DELAYS_US = (0, 1, MINUTE_US, 10 * MINUTE_US, HOUR_US, 5 * HOUR_US)
N_COPIES = 4
FULL = "full"
Auc = dict[str, float]


def _test_moment(data: EncodedData) -> int:
    """Return a moment ten minutes into an hour, after nine tenths of the requests."""
    assert data.impressions is not None
    return int(np.quantile(data.impressions.timestamp_us, 0.9)) // HOUR_US * HOUR_US + 10 * MINUTE_US


def _requests_at_once(data: EncodedData, moment: int) -> EncodedData:
    """Return the data up to a moment, with all later requests moved to that very moment.

    So nothing that is planted after one test request lies before another.
    """
    shown = data.impressions
    assert shown is not None
    return replace(
        data,
        log=data.log.select(data.log.timestamp_us < moment),
        impressions=replace(shown, timestamp_us=np.minimum(shown.timestamp_us, moment)),
    )


def _plant(data: EncodedData, moment: int) -> EncodedData:
    """Return the data with what was clicked in the test turned to again and again, by the same users and by others."""
    shown, log = data.impressions, data.log
    assert shown is not None
    clicked = np.flatnonzero(shown.clicked & (shown.timestamp_us[shown.row_request] == moment))
    item, own = shown.item_idx[clicked], shown.user_idx[shown.row_request[clicked]]
    everyone = np.arange(log.n_users, dtype=np.int32)
    user = np.concatenate([own, *(np.roll(everyone, 7 * i)[own] for i in range(1, N_COPIES))])
    delay = np.repeat(DELAYS_US, len(user))
    users, items = np.tile(user, len(DELAYS_US)), np.tile(np.tile(item, N_COPIES), len(DELAYS_US))
    planted_log = InteractionLog.from_arrays(
        np.append(log.user_idx, users),
        np.append(log.item_idx, items),
        np.append(log.timestamp_us, moment + delay),
        np.append(log.weight, np.full(len(users), 4.0, np.float32)),
        n_users=log.n_users,
        n_items=log.n_items,
    )
    # Lists of one item, which is clicked: they count, but are no test requests of their own.
    planted_shown = ImpressionLog(
        [*shown.request_id, *(f"planted{i}" for i in range(len(users)))],
        np.append(shown.user_idx, users),
        np.append(shown.timestamp_us, moment + delay),
        np.append(shown.indptr, shown.indptr[-1] + 1 + np.arange(len(users))),
        np.append(shown.item_idx, items),
        np.append(shown.clicked, np.ones(len(users), np.bool_)),
        np.append(shown.position, np.ones(len(users), np.int32)),
    )
    return replace(data, log=planted_log, impressions=planted_shown)


def _corpus(corpus: Corpus, data: EncodedData, moment: int) -> Corpus:
    test_from = f"{np.datetime64(moment, 'us')}"
    config = corpus.config.with_overrides({"split.test_from": test_from})
    split = make_split(data.log, data.impressions, config.split)
    assert split.boundaries_us is not None
    assert split.boundaries_us[-1] == moment
    return replace(corpus, data=data, split=split, config=config)


@dataclass(frozen=True)
class Worlds:
    """The same data without and with the planted answers, and a ranker trained on the first."""

    clean: Corpus
    planted: Corpus
    ranker: Ranker


def _rows(corpus: Corpus, models_of: Fold, fold: Fold) -> RankerRows:
    path = RankingPath(fit_models(corpus, models_of, SEED))
    rng = np.random.default_rng(5)
    return build_rows(path, requests_of(corpus, fold, 10_000, rng), corpus.config.ranker, rng, why_none=str)


@pytest.fixture(scope="module")
def worlds(tiny_corpus: Corpus) -> Worlds:
    moment = _test_moment(tiny_corpus.data)
    data = _requests_at_once(tiny_corpus.data, moment)
    clean = _corpus(tiny_corpus, data, moment)
    planted = _corpus(tiny_corpus, _plant(data, moment), moment)
    train, valid = (_rows(clean, Fold.LABEL, fold) for fold in (Fold.LABEL, Fold.VALID))
    # Several seeds: so few requests stop a single booster at a moment of their own, or at once.
    config = clean.config.ranker.model_copy(update={"n_seeds": 8})
    fit = train_ranker(train, valid, config, np.random.SeedSequence(2))
    return Worlds(clean, planted, fit.ranker)


def _auc(worlds: Worlds, corpus: Corpus) -> tuple[Auc, RankerRows]:
    """Return the mean AUC on the shown items of the test, of every feature alone and of the full system."""
    rows = _rows(corpus, Fold.TEST, Fold.TEST)
    scores = {name: rows.features[:, column] for column, name in enumerate(rows.feature_names)}
    scores[FULL] = worlds.ranker.score(rows.features)
    starts = np.cumsum(rows.group) - rows.group
    mean: Auc = {}
    for name, values in scores.items():
        known = np.nan_to_num(values, nan=-1e9)
        parts = [
            list_metrics(known[start : start + n], rows.label[start : start + n] > 0, ties="half")["auc"]
            for start, n in zip(starts, rows.group, strict=True)
        ]
        mean[name] = float(np.mean(parts))
    return mean, rows


@pytest.fixture(scope="module")
def clean_auc(worlds: Worlds) -> Auc:
    return _auc(worlds, worlds.clean)[0]


def test_planted_answers_are_there_to_be_found(worlds: Worlds) -> None:
    clean, planted = worlds.clean, worlds.planted

    assert len(planted.data.log) > 3 * len(clean.data.log)
    assert planted.split.boundaries_us is not None
    assert clean.split.boundaries_us is not None
    assert planted.split.boundaries_us.tolist() == clean.split.boundaries_us.tolist()
    added = planted.split.interaction_fold == Fold.TEST
    assert added.sum() == len(planted.data.log) - len(clean.data.log)


def test_planted_answers_do_not_change_a_bit_of_any_row(worlds: Worlds) -> None:
    for models_of, fold in ((Fold.LABEL, Fold.LABEL), (Fold.LABEL, Fold.VALID), (Fold.TEST, Fold.TEST)):
        clean, planted = (_rows(corpus, models_of, fold) for corpus in (worlds.clean, worlds.planted))

        assert clean.features.tobytes() == planted.features.tobytes()
        assert clean.label.tolist() == planted.label.tolist()
        assert clean.group.tolist() == planted.group.tolist()


def test_planted_answers_do_not_move_the_auc(worlds: Worlds, clean_auc: Auc) -> None:
    planted_auc, rows = _auc(worlds, worlds.planted)

    assert planted_auc == clean_auc
    assert len(rows.group) > 30
    assert 0.5 < clean_auc[FULL] < 0.95  # there is something to learn, and room to cheat


def _ignore_as_of(original: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self, item_idx, as_of_us, *rest: original(self, item_idx, 2**60, *rest)


def _count_the_bucket_in_progress(original: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self, item_idx, as_of_us, *rest: original(self, item_idx, as_of_us + self.bucket_us, *rest)


def _ignore_cut_off(original: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self, user_idx, before_us=None: original(self, user_idx)


def _cut_off_too_late(original: Callable[..., Any]) -> Callable[..., Any]:
    def cut(self: InteractionLog, user_idx: int, before_us: int | None = None) -> Any:
        return original(self, user_idx, None if before_us is None else before_us + 1)

    return cut


def _know_everything(original: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self, fold: np.ones(len(self.interaction_fold), np.bool_)


@pytest.mark.parametrize(
    ("guarded", "method", "sabotage", "giveaway"),
    [
        (BucketCounts, "before", _ignore_as_of, "popularity_all"),
        (BucketCounts, "before", _ignore_as_of, "ctr_all"),
        (BucketCounts, "before", _count_the_bucket_in_progress, "popularity_all"),
        (BucketCounts, "before", _count_the_bucket_in_progress, "ctr_6h"),
        (BucketCounts, "last_bucket_us", _ignore_as_of, "hours_since_seen"),
        (InteractionLog, "history_of", _ignore_cut_off, "times_in_history"),
        (InteractionLog, "history_of", _cut_off_too_late, "times_in_history"),
        (InteractionLog, "history_of", _cut_off_too_late, "text_max"),
        (Split, "known_before", _know_everything, "als_score"),
        (Split, "known_before", _know_everything, "covisitation_score"),
        (Split, "known_before", _know_everything, "ease_score"),
        (Split, "known_before", _know_everything, "next_item_score"),
    ],
)
def test_without_a_guard_the_planted_answers_give_themselves_away(
    worlds: Worlds,
    clean_auc: Auc,
    monkeypatch: pytest.MonkeyPatch,
    guarded: type,
    method: str,
    sabotage: Callable[[Callable[..., Any]], Callable[..., Any]],
    giveaway: str,
) -> None:
    monkeypatch.setattr(guarded, method, sabotage(getattr(guarded, method)))
    auc, _ = _auc(worlds, worlds.planted)

    assert max(auc[giveaway], 1.0 - auc[giveaway]) > max(clean_auc[giveaway], 1.0 - clean_auc[giveaway]) + 0.1


@pytest.mark.parametrize(
    ("guarded", "method", "sabotage"),
    [(BucketCounts, "before", _ignore_as_of), (InteractionLog, "history_of", _ignore_cut_off)],
)
def test_without_a_guard_the_full_system_seems_better_than_it_is(
    worlds: Worlds,
    clean_auc: Auc,
    monkeypatch: pytest.MonkeyPatch,
    guarded: type,
    method: str,
    sabotage: Callable[[Callable[..., Any]], Callable[..., Any]],
) -> None:
    monkeypatch.setattr(guarded, method, sabotage(getattr(guarded, method)))

    assert _auc(worlds, worlds.planted)[0][FULL] > clean_auc[FULL] + 0.02


def test_planted_answers_do_not_reach_the_pairs_of_the_text_encoder(worlds: Worlds) -> None:
    from training.text import encoder_pairs  # loads torch

    def pairs(corpus: Corpus) -> list[list[int]]:
        source = encoder_pairs(corpus.data, corpus.split, corpus.config, np.random.SeedSequence(1))
        assert source.valid is not None
        drawn = (source.train(np.random.default_rng(2)), source.valid)
        return [column.tolist() for some in drawn for column in (some.anchor, some.positive, some.hard_negative)]

    assert pairs(worlds.planted) == pairs(worlds.clean)
    assert all(len(column) > 50 for column in pairs(worlds.clean))


def test_pairs_that_know_everything_contain_planted_answers(worlds: Worlds, monkeypatch: pytest.MonkeyPatch) -> None:
    from training.text import encoder_pairs

    monkeypatch.setattr(Split, "known_before", _know_everything(Split.known_before))
    drawn = [
        encoder_pairs(corpus.data, corpus.split, corpus.config, np.random.SeedSequence(1)).train(
            np.random.default_rng(2)
        )
        for corpus in (worlds.clean, worlds.planted)
    ]

    assert drawn[0].positive.tolist() != drawn[1].positive.tolist()
