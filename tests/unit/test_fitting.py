from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recsys.counters import Counters
from recsys.errors import ConfigError
from recsys.models.fitted import FittedModels
from recsys.splits import Fold, Split, make_split
from training.desk import Desk
from training.fits import Fits
from training.fitting import Corpus, draw_pseudo_cold, draw_test_cold, fit_models, requests_of
from training.progress import Reporter
from training.ranker import RankerRows
from training.requests import cold_requests
from training.system import measure, train_on_past
from training.timings import StageClock
from training.work import WorkFolder

SEED = np.random.SeedSequence(1)
FAR_US = 2**60


def _set(corpus: Corpus, **overrides: Any) -> Corpus:
    return replace(
        corpus, config=corpus.config.with_overrides({key.replace("__", "."): v for key, v in overrides.items()})
    )


def _busiest(corpus: Corpus, start: int, stop: int) -> np.ndarray:
    counts = corpus.data.log.item_counts()
    return np.sort(np.argsort(-counts, kind="stable")[start:stop]).astype(np.int32)


@pytest.fixture(scope="module")
def hiding(tiny_corpus: Corpus) -> Corpus:
    """A corpus in which some of the busiest items are hidden from what feeds the training rows."""
    return replace(tiny_corpus, pseudo_cold_idx=_busiest(tiny_corpus, 0, 12))


@pytest.fixture(scope="module")
def asking(hiding: Corpus) -> Corpus:
    """The same, with the next busiest items hidden from all that is measured, for a ranker of hidden items."""
    return replace(_set(hiding, ranker__rows="cold"), test_cold_idx=_busiest(hiding, 12, 24))


@pytest.fixture(scope="module")
def leave_last(tiny_corpus: Corpus) -> Corpus:
    """The same log without impressions, split by every user's last interactions."""
    corpus = _set(tiny_corpus, split__kind="leave_last", split__n_label=2)
    data = replace(corpus.data, impressions=None)
    return replace(corpus, data=data, split=make_split(data.log, None, corpus.config.split))


def _counted(models: FittedModels, kind: str, item_idx: np.ndarray) -> np.ndarray:
    counters: Counters = models.counters
    return counters.count(kind, item_idx.astype(np.int32), FAR_US)[:, 0]


@pytest.mark.parametrize("fold", [Fold.LABEL, Fold.TEST])
def test_models_that_feed_a_fold_are_fitted_on_earlier_folds_alone(tiny_corpus: Corpus, fold: Fold) -> None:
    models = fit_models(tiny_corpus, fold, SEED)
    known = tiny_corpus.split.interaction_fold < fold
    assert tiny_corpus.split.boundaries_us is not None
    boundary = tiny_corpus.split.boundaries_us[fold - 1]

    assert len(models.log) == known.sum()
    assert models.log.timestamp_us.max() < boundary
    assert models.item_counts.tolist() == tiny_corpus.data.log.select(known).item_counts().tolist()
    never = np.flatnonzero(models.item_counts == 0)
    assert not models.factors.own[never].any()
    assert not models.factors.is_warm[never].any()
    assert models.covisitation.transitions[:, never].nnz == models.covisitation.transitions[never].nnz == 0


def test_models_of_everything_are_fitted_on_everything(tiny_corpus: Corpus) -> None:
    models = fit_models(tiny_corpus, None, SEED)

    assert len(models.log) == len(tiny_corpus.data.log)
    everything = np.arange(len(models.catalogue))
    assert tiny_corpus.data.impressions is not None
    assert _counted(models, "shown", everything).sum() == len(tiny_corpus.data.impressions.item_idx)


def test_counters_of_a_time_split_reach_to_the_end_of_what_is_read_with_them(tiny_corpus: Corpus) -> None:
    data, split = tiny_corpus.data, tiny_corpus.split
    assert data.impressions is not None
    assert split.request_fold is not None
    everything = np.arange(len(data.catalogue))
    for fold, last in ((Fold.LABEL, Fold.VALID), (Fold.TEST, Fold.TEST)):
        models = fit_models(tiny_corpus, fold, SEED)
        in_reach = split.request_fold[data.impressions.row_request] <= last
        counted = _counted(models, "interactions", everything)
        weight = np.round(data.log.weight.astype(np.float64) * 1024) / 1024

        assert _counted(models, "shown", everything).sum() == in_reach.sum()
        assert _counted(models, "clicked", everything).sum() == (in_reach & data.impressions.clicked).sum()
        assert counted.sum() == weight[split.interaction_fold <= last].sum()


@pytest.mark.parametrize("fold", [Fold.LABEL, Fold.TEST])
def test_what_came_with_the_test_but_is_dated_before_it_is_counted_nowhere(tiny_corpus: Corpus, fold: Fold) -> None:
    split = tiny_corpus.split
    moved = np.flatnonzero(split.interaction_fold == Fold.FIT)[::3]
    fold_of = split.interaction_fold.copy()
    fold_of[moved] = Fold.TEST
    corpus = replace(tiny_corpus, split=replace(split, interaction_fold=fold_of))
    everything = np.arange(len(corpus.data.catalogue))
    weight = np.round(corpus.data.log.weight.astype(np.float64) * 1024) / 1024
    last = Fold.VALID if fold == Fold.LABEL else fold

    models = fit_models(corpus, fold, SEED)

    counted = split.interaction_fold <= last
    counted[moved] = False
    assert _counted(models, "interactions", everything).sum() == weight[counted].sum()


def test_counters_of_leave_last_hold_only_what_is_known(leave_last: Corpus) -> None:
    models = fit_models(leave_last, Fold.LABEL, SEED)
    everything = np.arange(len(models.catalogue))
    weight = np.round(leave_last.data.log.weight.astype(np.float64) * 1024) / 1024

    known = leave_last.split.interaction_fold == Fold.FIT
    assert _counted(models, "interactions", everything).sum() == weight[known].sum()
    assert _counted(models, "shown", everything).sum() == 0


def test_hidden_items_leave_no_trace_in_what_feeds_the_training_rows(hiding: Corpus) -> None:
    hidden = hiding.pseudo_cold_idx
    models = fit_models(hiding, Fold.LABEL, SEED)

    assert not models.item_counts[hidden].any()
    assert not models.factors.is_warm[hidden].any()
    assert not models.factors.own[hidden].any()
    assert models.covisitation.transitions[hidden].nnz == models.covisitation.transitions[:, hidden].nnz == 0
    for kind in ("interactions", "shown", "clicked"):
        assert not _counted(models, kind, hidden).any(), kind
        others = np.setdiff1d(np.arange(len(models.catalogue)), hidden)
        assert _counted(models, kind, others).sum() > 100, kind
    assert (models.counters.first_seen_us(hidden, FAR_US) == -1).all()


def test_hidden_items_are_hidden_from_the_training_rows_only(hiding: Corpus) -> None:
    for fold in (Fold.TEST, None):
        models = fit_models(hiding, fold, SEED)
        assert models.item_counts[hiding.pseudo_cold_idx].min() > 0
        assert _counted(models, "shown", hiding.pseudo_cold_idx).min() > 0


def test_hidden_items_are_drawn_from_those_seen_before_the_test(tiny_corpus: Corpus) -> None:
    corpus = _set(tiny_corpus, ranker__pseudo_cold_share=0.25)
    data, split = corpus.data, corpus.split
    drawn = draw_pseudo_cold(data, split, corpus.config, np.random.default_rng(1))
    seen = np.flatnonzero(data.log.select(split.interaction_fold < Fold.TEST).item_counts())

    assert len(drawn) == round(0.25 * len(seen))
    assert np.isin(drawn, seen).all()
    assert (np.diff(drawn) > 0).all()
    assert drawn.dtype == np.int32
    assert drawn.tolist() == draw_pseudo_cold(data, split, corpus.config, np.random.default_rng(1)).tolist()
    assert drawn.tolist() != draw_pseudo_cold(data, split, corpus.config, np.random.default_rng(2)).tolist()
    assert len(draw_pseudo_cold(data, split, tiny_corpus.config, np.random.default_rng(1))) == 0


def test_items_to_test_on_are_others_and_as_many(tiny_corpus: Corpus) -> None:
    corpus = _set(tiny_corpus, ranker__pseudo_cold_share=0.25, ranker__rows="cold")
    data, split, config = corpus.data, corpus.split, corpus.config
    rng = np.random.default_rng(1)
    hidden = draw_pseudo_cold(data, split, config, rng)
    asked = draw_test_cold(data, split, config, hidden, rng)
    seen = np.flatnonzero(data.log.select(split.interaction_fold < Fold.TEST).item_counts())

    assert len(asked) == len(hidden) > 0
    assert np.isin(asked, np.setdiff1d(seen, hidden)).all()
    assert (np.diff(asked) > 0).all()
    assert asked.dtype == np.int32
    for rows in ("auto", "impressions", "retrieved"):
        other = _set(corpus, ranker__rows=rows).config
        assert len(draw_test_cold(data, split, other, hidden, rng)) == 0


def test_a_share_that_leaves_no_item_with_behaviour_is_refused(tiny_corpus: Corpus) -> None:
    corpus = _set(tiny_corpus, ranker__pseudo_cold_share=0.6, ranker__rows="cold")
    data, split, config = corpus.data, corpus.split, corpus.config
    rng = np.random.default_rng(1)
    hidden = draw_pseudo_cold(data, split, config, rng)
    with pytest.raises(ConfigError, match=r"ranker\.pseudo_cold_share 0\.6 hides .* set it below 0\.5, to 0\.2, say"):
        draw_test_cold(data, split, config, hidden, rng)


def test_the_same_seed_gives_the_same_models(tiny_corpus: Corpus) -> None:
    one, same, other = (fit_models(tiny_corpus, Fold.TEST, np.random.SeedSequence(seed)) for seed in (1, 1, 2))

    assert one.factors.placed.tobytes() == same.factors.placed.tobytes()
    assert one.factors.placed.tobytes() != other.factors.placed.tobytes()


@pytest.mark.parametrize("fold", [Fold.LABEL, Fold.VALID, Fold.TEST])
def test_shown_requests_of_a_fold_lie_in_it_and_know_only_what_came_before(tiny_corpus: Corpus, fold: Fold) -> None:
    requests = list(requests_of(tiny_corpus, fold, 10_000, np.random.default_rng(0)))
    assert tiny_corpus.split.boundaries_us is not None
    edges = np.concatenate([tiny_corpus.split.boundaries_us, [FAR_US]])

    assert len(requests) > 10
    for labelled in requests:
        assert edges[fold - 1] <= labelled.request.as_of_us < edges[fold]
        assert (labelled.request.history.timestamp_us < labelled.request.as_of_us).all()
        assert labelled.request.candidates is not None
        assert np.isin(labelled.relevant_idx, labelled.request.candidates).all()


@pytest.mark.parametrize("fold", [Fold.LABEL, Fold.VALID, Fold.TEST])
def test_next_items_of_a_fold_lie_in_it_and_are_no_part_of_the_history(leave_last: Corpus, fold: Fold) -> None:
    requests = list(requests_of(leave_last, fold, 10_000, np.random.default_rng(0)))
    log, folds = leave_last.data.log, leave_last.split.interaction_fold

    assert len(requests) > 10
    for labelled in requests:
        user, time = labelled.key
        rows = np.arange(log.indptr[user], log.indptr[user + 1])
        target = rows[(log.timestamp_us[rows] == time) & np.isin(log.item_idx[rows], labelled.relevant_idx)]
        assert (folds[target] == fold).all()
        assert len(target) > 0
        assert not np.isin(labelled.relevant_idx, labelled.request.history.item_idx).any()
        assert labelled.exclude.tolist() == np.unique(labelled.request.history.item_idx).tolist()


def test_requests_of_hidden_items_divide_the_users(hiding: Corpus) -> None:
    corpus = _set(hiding, ranker__rows="cold")
    label, valid = (
        list(requests_of(corpus, fold, 10_000, np.random.default_rng(0))) for fold in (Fold.LABEL, Fold.VALID)
    )

    assert len(label) > len(valid) > 0
    assert not {labelled.request.user_idx for labelled in label} & {labelled.request.user_idx for labelled in valid}
    for labelled in label + valid:
        assert labelled.request.candidates is not None
        assert labelled.request.candidates.tolist() == hiding.pseudo_cold_idx.tolist()
        assert not np.isin(labelled.request.history.item_idx, hiding.pseudo_cold_idx).any()


def test_the_number_of_requests_is_limited(tiny_corpus: Corpus, leave_last: Corpus) -> None:
    for corpus in (tiny_corpus, leave_last):
        assert 0 < len(list(requests_of(corpus, Fold.LABEL, 7, np.random.default_rng(0)))) <= 7


def test_what_the_ranker_orders_follows_the_data_unless_it_is_configured(
    tiny_corpus: Corpus, leave_last: Corpus
) -> None:
    assert tiny_corpus.rows == "impressions"
    assert leave_last.rows == "retrieved"
    assert _set(tiny_corpus, ranker__rows="retrieved").rows == "retrieved"


def test_impressions_cannot_be_ordered_without_impressions(leave_last: Corpus) -> None:
    with pytest.raises(
        ConfigError, match=r"ranker\.rows is impressions, but the data has no impressions table; use auto"
    ):
        _ = _set(leave_last, ranker__rows="impressions").rows


def test_hidden_items_cannot_be_ordered_where_none_is_hidden(tiny_corpus: Corpus) -> None:
    with pytest.raises(
        ConfigError, match=r"ranker\.rows is cold, but ranker\.pseudo_cold_share hides no item; set it to"
    ):
        _ = _set(tiny_corpus, ranker__rows="cold").rows


def test_what_is_measured_of_hidden_items_has_taught_the_ranker_nothing(asking: Corpus) -> None:
    rng = np.random.default_rng(0)
    asked = {fold: list(requests_of(asking, fold, 10_000, rng)) for fold in (Fold.LABEL, Fold.VALID, Fold.TEST)}

    assert len(asked[Fold.TEST]) > 10
    for labelled in asked[Fold.TEST]:
        assert labelled.request.candidates is not None
        assert labelled.request.candidates.tolist() == asking.test_cold_idx.tolist()
        assert not np.isin(labelled.request.history.item_idx, asking.test_cold_idx).any()
    taught = asked[Fold.LABEL] + asked[Fold.VALID]
    assert taught
    for labelled in taught:
        assert not np.isin(labelled.relevant_idx, asking.test_cold_idx).any()
        assert not np.isin(labelled.request.history.item_idx, asking.test_cold_idx).any()


def test_hidden_items_are_measured_with_models_that_have_not_seen_them(asking: Corpus, tmp_path: Path) -> None:
    corpus = _set(asking, ranker__early_stopping=5, sequence__epochs=0)
    with StageClock() as clock:
        desk = Desk(WorkFolder(tmp_path), Reporter(quiet=True), clock)
        fits = Fits(corpus, desk)
        fit = train_on_past([fits], desk, "key")
        path, evaluation = measure(fits, fit.ranker, desk)
        given = list(cold_requests(corpus.data.log, np.array([0, 1], np.int32), np.arange(80), max_history=9))
        _, other = measure(fits, fit.ranker, desk, requests=given)
        past = fits.models(Fold.LABEL)

    asked = corpus.test_cold_idx
    for models in (past, path.models):
        assert not models.item_counts[asked].any()
        assert not models.factors.own[asked].any()
        assert models.covisitation.transitions[:, asked].nnz == 0
        for kind in ("interactions", "shown", "clicked"):
            assert not _counted(models, kind, asked).any(), kind
    # What the ranker has learned from is known at the test, as in service.
    assert not past.item_counts[corpus.pseudo_cold_idx].any()
    assert path.models.item_counts[corpus.pseudo_cold_idx].all()
    assert evaluation.n_requests > 0
    assert other.n_requests == len(given)


def test_interactions_held_out_at_random_are_what_a_request_wants(leave_last: Corpus) -> None:
    corpus = _set(leave_last, ranker__rows="held_out")
    log = corpus.data.log
    fold = np.where(np.random.default_rng(0).random(len(log)) < 0.3, Fold.LABEL, Fold.FIT).astype(np.int8)
    fold[np.random.default_rng(1).random(len(log)) < 0.2] = Fold.TEST
    corpus = replace(corpus, split=Split(fold, None, None))
    rng = np.random.default_rng(2)
    asked = {fold: list(requests_of(corpus, fold, 500, rng)) for fold in (Fold.LABEL, Fold.VALID, Fold.TEST)}
    users = {fold: {labelled.request.user_idx for labelled in made} for fold, made in asked.items()}

    assert users[Fold.LABEL]
    assert users[Fold.VALID]
    assert not users[Fold.LABEL] & users[Fold.VALID]
    for wanted, made in ((Fold.LABEL, asked[Fold.VALID]), (Fold.TEST, asked[Fold.TEST])):
        for labelled in made:
            of_user = log.user_idx == labelled.request.user_idx
            known = set(log.item_idx[of_user & (fold < wanted)].tolist())
            assert set(labelled.exclude.tolist()) == known
            assert set(labelled.relevant_idx.tolist()) == set(log.item_idx[of_user & (fold == wanted)].tolist()) - known


def test_the_rows_of_several_ways_to_divide_the_past_are_learned_from_together(
    tiny_corpus: Corpus, tmp_path: Path
) -> None:
    corpus = _set(tiny_corpus, sequence__epochs=0, ranker__max_requests=60, evaluation__max_requests=20)
    with StageClock() as clock:
        desk = Desk(WorkFolder(tmp_path), Reporter(quiet=True), clock)
        train_on_past([Fits(corpus, desk), Fits(corpus, desk)], desk, "key")
        kept = [RankerRows.load(tmp_path / f"rows-{part}" / "train.npz") for part in (1, 2)]

    joined = RankerRows.join(kept)
    assert 0 < len(kept[0].group) <= 30
    assert len(joined.label) == len(joined.features) == joined.group.sum() == 2 * kept[0].group.sum()
    assert joined.feature_names == kept[0].feature_names


def test_models_of_another_choice_of_features_are_taken_over(tiny_corpus: Corpus, tmp_path: Path) -> None:
    corpus = _set(tiny_corpus, sequence__epochs=0)
    fewer = _set(corpus, features__groups=["text"], retrieval__sources=["text"])
    with StageClock() as clock:
        desk = Desk(WorkFolder(tmp_path), Reporter(quiet=True), clock)
        fits = Fits(corpus, desk)
        models, others = fits.models(Fold.TEST), Fits(fewer, desk, like=fits).models(Fold.TEST)

    assert others.factors is models.factors
    assert others.config == fewer.config
    assert fits.models(Fold.TEST) is models


def test_the_sequence_model_is_the_same_whichever_fold_is_asked_for_first(tiny_corpus: Corpus, tmp_path: Path) -> None:
    with StageClock() as clock:
        straight, direct = (Desk(WorkFolder(tmp_path / name), Reporter(quiet=True), clock) for name in ("a", "b"))
        fits = Fits(tiny_corpus, straight)
        past, before_test = fits.models(Fold.LABEL).sequence, fits.models(Fold.TEST).sequence
        directly = Fits(tiny_corpus, direct).models(Fold.TEST).sequence

    assert past is not None
    assert before_test is not None
    assert directly is not None
    assert before_test.item_vectors.tolist() == directly.item_vectors.tolist()
    assert before_test.item_vectors.tolist() != past.item_vectors.tolist()


def test_a_sequence_model_is_kept_for_the_same_inputs_alone(tiny_corpus: Corpus, tmp_path: Path) -> None:
    other_texts = replace(tiny_corpus, item_embeddings=tiny_corpus.item_embeddings[::-1].copy())
    with StageClock() as clock:
        desk = Desk(WorkFolder(tmp_path), Reporter(quiet=True), clock)
        first, again = Fits(tiny_corpus, desk), Fits(tiny_corpus, desk)
        made = [first.models(fold).sequence for fold in (Fold.LABEL, Fold.TEST)]
        fitted = clock.root.stages[:]
        kept = [again.models(fold).sequence for fold in (Fold.LABEL, Fold.TEST)]
        since = clock.root.stages[len(fitted) :]
        Fits(other_texts, desk).models(Fold.LABEL)
        Fits(_set(tiny_corpus, sequence__learning_rate=0.05), desk).models(Fold.LABEL)

    of_sequence = [stage.name for stage in fitted if "sequence" in stage.name]
    assert of_sequence == ["sequence model", "sequence model, brought up to date"]
    assert [stage.name for stage in since if "sequence" in stage.name] == []
    for one, other in zip(made, kept, strict=True):
        assert one is not None
        assert other is not None
        assert one.item_vectors.tolist() == other.item_vectors.tolist()
        assert one.item_bias.tolist() == other.item_bias.tolist()
    assert again.sequence_reports == first.sequence_reports
    assert again.sequence_curve == first.sequence_curve
    after = clock.root.stages[len(fitted) + len(since) :]
    assert [stage.name for stage in after].count("sequence model") == 2


def test_how_the_fits_of_the_sequence_model_ended_is_said_and_kept(
    tiny_corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hurried = _set(tiny_corpus, sequence__epochs=3, sequence__max_train_seconds=1e-6, sequence__refit_epochs=0)
    with StageClock() as clock:
        desk = Desk(WorkFolder(tmp_path), Reporter(), clock)
        fits = Fits(hurried, desk)
        before = fits.sequence_reports, fits.sequence_curve
        fits.models(Fold.TEST)
        taken_over = Fits(hurried, desk, like=fits)

    assert before == ({}, [])
    assert list(fits.sequence_reports) == ["models of the past", "models before the test"]
    report = fits.sequence_reports["models of the past"]
    assert (report["epochs"], report["stopped_because"], report["time_was_short"]) == (1, "time", True)
    assert [point["step"] for point in fits.sequence_curve] == [1]
    assert taken_over.sequence_reports == fits.sequence_reports
    assert taken_over.sequence_curve == fits.sequence_curve
    said = " ".join(capsys.readouterr().err.split())
    assert "sequence model: ended by time; raise sequence.max_train_seconds to let it learn longer" in said
    assert "sequence model, brought up to date: not trained" in said
