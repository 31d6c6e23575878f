"""The search for settings: what it may see, what it scores, and how it goes on after an interruption."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from tiny import SIMULATION

from features.path import RankingPath
from recsys.config import Config
from recsys.datasets.dataset import Dataset
from recsys.datasets.encoded import EncodedData, encode_dataset
from recsys.datasets.simulated import simulate
from recsys.errors import ConfigError, DataError, LeakageError
from recsys.histories import InteractionLog
from recsys.models.encoder import TextEncoder
from recsys.splits import Fold, Split, make_split
from training.desk import Desk, seed_for
from training.evaluation import evaluate
from training.fitting import Corpus, fit_models
from training.progress import Reporter
from training.ranker import RankerRows
from training.timings import StageClock
from training.tune import Budget, config_text, search_settings
from training.tune_cut import check_no_test, without_test
from training.tune_ranker import RankerTrials, thinned
from training.tune_requests import halves, users_of, validation_requests
from training.tune_sources import SourceTrials
from training.tune_study import Question, Score, Setting, Study, StudyResult, value_of
from training.work import WorkFolder

FAST = {
    "ranker.n_trees": 8,
    "ranker.early_stopping": 8,
    "collaborative.iterations": 2,
    "sequence.epochs": 0,
    "evaluation.n_bootstrap": 20,
    "retrieval.sources": ["als", "ease", "next_item", "covisitation", "text"],
}
LEAVE_LAST = {"split.kind": "leave_last", "split.n_label": 3}
INTRUDER, UNHEARD_OF = "0-intruder", "unheard-of"


class Recorder:
    """Remembers what it is told of trials."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int, dict[str, Any]]] = []
        self.figures: list[dict[str, float]] = []
        self.adopted: list[str] = []

    def log_trial(self, study: str, number: int, settings: Mapping[str, Any], figures: Mapping[str, float]) -> str:
        self.told.append((study, number, dict(settings)))
        self.figures.append({name: value for name, value in figures.items() if name != "seconds"})
        return f"{study} {number}"

    def adopt(self, run_id: str) -> bool:
        self.adopted.append(run_id)
        return True


@dataclass(frozen=True)
class World:
    """A data set and a configuration to search with."""

    dataset: Dataset
    config: Config
    encoder: TextEncoder

    def whole(self) -> tuple[EncodedData, Split]:
        data = encode_dataset(self.dataset, self.config.data)
        return data, make_split(data.log, data.impressions, self.config.split)

    def past(self) -> Corpus:
        """Return what a search works with."""
        past = without_test(self.dataset, self.config)
        return self.corpus(past.data, past.split)

    def corpus(self, data: EncodedData, split: Split) -> Corpus:
        embeddings = self.encoder.encode(data.catalogue.texts)
        return Corpus(data, split, self.config, embeddings, self.encoder, np.empty(0, np.int32))


def turned(column: str, ids: list[str], test: pl.Series, step: int) -> pl.Expr:
    """Return a column of ids in which those of the test are other ones."""
    other = {id_: ids[(place * step + 5) % len(ids)] for place, id_ in enumerate(ids)}
    return pl.when(test).then(pl.col(column).replace_strict(other, default=None)).otherwise(pl.col(column))


def garbage(true: World) -> Dataset:
    """Return the data set with garbage for a test: other users, other items, other events, other clicks.

    Among them are a user who comes first in the order of users, and an item that only the log names. With leave_last a
    user's last interaction is what tests, so the users stay, and what they did last comes later.
    """
    data, split = true.whole()
    dataset = true.dataset
    test_rows = np.zeros(dataset.interactions.height, np.bool_)
    test_rows[data.log.row[split.interaction_fold == Fold.TEST]] = True
    test = pl.Series(test_rows)
    items = [*dataset.items["item_id"], UNHEARD_OF]
    table = pl.concat([dataset.items, pl.DataFrame({"item_id": [UNHEARD_OF]})], how="diagonal")
    interactions = dataset.interactions.with_columns(
        turned("item_id", items, test, 11), event=pl.when(test).then(pl.lit("share")).otherwise("event")
    )
    if dataset.impressions is None or split.request_fold is None or data.impressions is None:
        later = pl.when(test).then(pl.col("timestamp") + pl.duration(days=100)).otherwise("timestamp")
        moved = interactions.with_columns(later).sort("timestamp", maintain_order=True)
        return replace(dataset, items=table, interactions=moved)
    users = [INTRUDER, *dataset.user_ids()]
    interactions = interactions.with_columns(turned("user_id", users, test, 7))
    late = {id_ for id_, fold in zip(data.impressions.request_id, split.request_fold, strict=True) if fold == Fold.TEST}
    of_test = dataset.impressions["request_id"].is_in(late)
    impressions = dataset.impressions.with_columns(
        turned("item_id", items, of_test, 11), turned("user_id", users, of_test, 7), clicked=pl.col("clicked") ^ of_test
    )
    return replace(dataset, items=table, interactions=interactions, impressions=impressions)


@pytest.fixture(scope="module", params=["time", "leave_last"])
def worlds(request: pytest.FixtureRequest, tiny_corpus: Corpus) -> tuple[World, World]:
    """The same past twice: once with the test that happened, once with garbage in its place."""
    dataset = simulate(SIMULATION, 7).dataset
    config = tiny_corpus.config.with_overrides(FAST)
    if request.param == "leave_last":
        dataset, config = replace(dataset, impressions=None), config.with_overrides(LEAVE_LAST)
    assert tiny_corpus.encoder is not None
    true = World(dataset, config, tiny_corpus.encoder)
    return true, replace(true, dataset=garbage(true))


@dataclass(frozen=True)
class Found:
    """All that a search says."""

    studies: list[dict[str, Any]]
    trials: list[tuple[str, int, dict[str, Any]]]
    figures: list[dict[str, float]]
    best: Config


def find(corpus: Corpus, folder: Path, *, n_trials: int = 2, search: Any = "all") -> Found:
    log = Recorder()
    with StageClock() as clock:
        desk = Desk(WorkFolder(folder), Reporter(quiet=True), clock)
        studies = list(search_settings(corpus, Budget(n_trials), desk, "toy", log, search=search))
    return Found([study.to_dict() for study in studies], log.told, log.figures, studies[-1].config)


def uncut(world: World, as_fold: Fold) -> Corpus:
    """Return what a search must not work with: the test passes for a part of an earlier fold."""
    data, split = world.whole()

    def earlier(folds: Any) -> Any:
        return np.where(folds == Fold.TEST, as_fold, folds).astype(np.int8)

    requests = None if split.request_fold is None else earlier(split.request_fold)
    return world.corpus(data, Split(earlier(split.interaction_fold), requests, split.boundaries_us))


def named(data: EncodedData, log: InteractionLog) -> list[tuple[str, str, int, float]]:
    users, items = data.user_ids.ids_of(log.user_idx), data.catalogue.ids.ids_of(log.item_idx)
    return list(zip(users, items, log.timestamp_us.tolist(), log.weight.tolist(), strict=True))


def test_the_worlds_differ_in_their_test_alone(worlds: tuple[World, World]) -> None:
    (data, split), (other, other_split) = (world.whole() for world in worlds)
    before, after = split.interaction_fold < Fold.TEST, split.interaction_fold == Fold.TEST
    other_before, other_after = other_split.interaction_fold < Fold.TEST, other_split.interaction_fold == Fold.TEST

    assert sorted(named(data, data.log.select(before))) == sorted(named(other, other.log.select(other_before)))
    assert after.sum() == other_after.sum() > 50
    assert not set(named(data, data.log.select(after))) & set(named(other, other.log.select(other_after)))
    assert UNHEARD_OF in other.catalogue.ids


def test_the_cut_leaves_nothing_of_the_test(worlds: tuple[World, World]) -> None:
    cuts = [without_test(world.dataset, world.config) for world in worlds]

    assert cuts[0].fingerprint() == cuts[1].fingerprint()
    for cut in cuts:
        assert cut.split.interaction_fold.max() == Fold.VALID
        assert len(cut.split.interaction_fold) == len(cut.data.log)
        assert UNHEARD_OF not in cut.data.catalogue.ids
        assert INTRUDER not in cut.data.user_ids
        assert cut.dataset.interactions.height == len(cut.data.log)


def test_the_cut_keeps_all_that_was_before_the_test(worlds: tuple[World, World]) -> None:
    data, split = worlds[0].whole()
    cut = without_test(worlds[0].dataset, worlds[0].config)
    rows = split.interaction_fold < Fold.TEST

    assert named(cut.data, cut.data.log) == named(data, data.log.select(rows))
    assert cut.split.interaction_fold.tolist() == split.interaction_fold[rows].tolist()
    shown, whole = cut.data.impressions, data.impressions
    if shown is not None and whole is not None and split.request_fold is not None:
        kept = np.flatnonzero(split.request_fold < Fold.TEST)
        assert shown.request_id == [whole.request_id[r] for r in kept]
        assert cut.split.request_fold is not None
        assert cut.split.request_fold.tolist() == split.request_fold[kept].tolist()
        last, same = shown.rows(len(kept) - 1), whole.rows(int(kept[-1]))
        items = [cut.data.catalogue.ids.ids_of(shown.item_idx[last]), data.catalogue.ids.ids_of(whole.item_idx[same])]
        assert items[0] == items[1]
        assert shown.clicked[last].tolist() == whole.clicked[same].tolist()


def test_items_that_came_with_the_test_are_left_out(tiny_corpus: Corpus) -> None:
    dataset = simulate(SIMULATION, 7).dataset
    assert tiny_corpus.split.boundaries_us is not None
    begin = int(tiny_corpus.split.boundaries_us[-1])
    moments = pl.Series("created_at", [begin - 1, begin, None]).cast(pl.Datetime("us", "UTC"))
    new = dataset.items.head(3).with_columns(pl.Series("item_id", ["earlier", "later", "always"]), moments)
    items = pl.concat([dataset.items, new], how="diagonal_relaxed")

    found = without_test(replace(dataset, items=items), tiny_corpus.config).data.catalogue.ids

    assert "earlier" in found
    assert "always" in found
    assert "later" not in found


def test_what_the_test_holds_changes_no_figure_and_no_choice(worlds: tuple[World, World], tmp_path: Path) -> None:
    found = [find(world.past(), tmp_path / str(place)) for place, world in enumerate(worlds)]

    assert found[0] == found[1]
    names = [study["name"] for study in found[0].studies]
    retrieval = ["retrieval"] if worlds[0].dataset.impressions is None else []
    assert names == ["als", "ease", "next_item", "covisitation", *retrieval, "ranker"]
    assert all(0.0 < study["base"] < 1.0 for study in found[0].studies)


@pytest.mark.parametrize("fold", [Fold.FIT, Fold.VALID])
def test_a_search_that_reads_the_test_gives_itself_away(
    worlds: tuple[World, World], tmp_path: Path, fold: Fold
) -> None:
    found = [
        find(uncut(world, fold), tmp_path / str(place), n_trials=1, search="sources")
        for place, world in enumerate(worlds)
    ]

    assert [study["base"] for study in found[0].studies] != [study["base"] for study in found[1].studies]


def test_a_search_refuses_data_with_a_test(worlds: tuple[World, World], tmp_path: Path) -> None:
    data, split = worlds[0].whole()
    n_test = int((split.interaction_fold == Fold.TEST).sum())

    with pytest.raises(LeakageError, match=rf"{n_test} interactions of the test reached the search for settings"):
        find(worlds[0].corpus(data, split), tmp_path)


def test_a_split_that_does_not_fit_its_data_is_refused(worlds: tuple[World, World]) -> None:
    past = without_test(worlds[0].dataset, worlds[0].config)
    short = replace(past.split, interaction_fold=past.split.interaction_fold[:-2])

    with pytest.raises(LeakageError, match=rf"speaks of {len(past.data.log) - 2} interactions, the data holds"):
        check_no_test(past.data, short)


def test_a_source_scores_what_the_evaluation_would_say(worlds: tuple[World, World], tmp_path: Path) -> None:
    corpus = worlds[0].past()
    with StageClock() as clock:
        trials = SourceTrials(corpus, Desk(WorkFolder(tmp_path), Reporter(quiet=True), clock))
        scores = {name: trials.question(name, corpus.config).evaluate(corpus.config) for name in ("als", "ease")}
    path = RankingPath(fit_models(corpus, Fold.VALID, seed_for(corpus.config.seed, "factors")))
    measured = evaluate(
        path,
        validation_requests(corpus),
        corpus.config.evaluation,
        np.random.SeedSequence(0),
        as_lists=corpus.rows == "impressions",
    )

    metric = "auc" if corpus.rows == "impressions" else "ndcg@10"
    for name, score in scores.items():
        assert score.mean == pytest.approx(measured.systems[name][metric].mean, abs=1e-6)


def test_the_ranker_is_scored_on_users_that_did_not_stop_it(worlds: tuple[World, World], tmp_path: Path) -> None:
    corpus = worlds[0].past()
    requests = validation_requests(corpus)
    stop, scored = halves(requests, np.random.SeedSequence(3))
    with StageClock() as clock:
        question = RankerTrials(corpus, Desk(WorkFolder(tmp_path), Reporter(quiet=True), clock), "toy").question()
        score = question.evaluate(corpus.config)

    assert not set(users_of(stop)) & set(users_of(scored))
    assert len(stop) + len(scored) == len(requests)
    assert min(len(stop), len(scored)) > 0.3 * len(requests)
    assert len(score.values) == len(question.user_idx())
    assert set(question.user_idx()) < set(users_of(requests))


def test_fewer_negatives_are_some_of_more() -> None:
    group = np.array([4, 2, 5], np.int32)
    label = np.array([0, 1, 0, 0, 1, 0, 0, 0, 1, 0, 0], np.float32)
    rows = RankerRows(np.arange(11, dtype=np.float32)[:, None], label, group, None, ("place",))

    two, one = (thinned(rows, n, np.random.default_rng(1)) for n in (2, 1))

    assert two.group.tolist() == [3, 2, 3]
    assert one.group.tolist() == [2, 2, 2]
    assert set(one.features[:, 0]) < set(two.features[:, 0])
    assert {1.0, 4.0, 8.0} <= set(one.features[:, 0])
    assert one.label.tolist() == [label[int(place)] for place in one.features[:, 0]]
    assert thinned(rows, 9, np.random.default_rng(1)).features.tolist() == rows.features.tolist()


# -- studies

PEAK = {"ranker.learning_rate": 0.1, "ranker.num_leaves": 40}


def hill(config: Config) -> Score:
    """Return a score that is highest at PEAK, alike for four requests of two users but for a constant."""
    distance = sum(float(np.log(value_of(config, key) / value)) ** 2 for key, value in PEAK.items())
    return Score(np.array([0.0, 0.1, 0.2, 0.3]) + 1.0 - distance, {"distance": distance})


def question(evaluate_config: Callable[[Config], Score] = hill) -> Question:
    settings = (
        Setting("ranker.learning_rate", 0.02, 0.5, is_log=True),
        Setting("ranker.num_leaves", 4, 120, is_log=True),
        Setting("ranker.objective", choices=("lambdarank", "binary")),
    )
    return Question("hill", "height", settings, evaluate_config, lambda: np.array([0, 0, 1, 1]))


def answer(
    folder: Path, n: int, log: Recorder, *, base: Config | None = None, ask: Question | None = None
) -> StudyResult:
    folder.mkdir(exist_ok=True)
    base = base or Config()
    return Study(ask or question(), base, folder, log).run(n, float("inf"), lambda done, total=0, note="": None)


def test_the_first_trial_is_the_configuration_itself(tmp_path: Path) -> None:
    log = Recorder()
    base = Config().with_overrides({"ranker.num_leaves": 200, "ranker.learning_rate": 0.31})

    result = answer(tmp_path, 1, log, base=base)

    settings = {"ranker.learning_rate": 0.31, "ranker.num_leaves": 200, "ranker.objective": "lambdarank"}
    assert log.told == [("hill", 0, settings)]
    assert result.settings == settings
    assert result.config == base
    assert (result.base, result.n_trials, result.n_requests) == (result.best, 1, 4)
    assert (result.difference.mean, result.difference.excludes_zero) == (0.0, False)


def test_the_best_trial_becomes_the_configuration(tmp_path: Path) -> None:
    log = Recorder()

    result = answer(tmp_path, 25, log)

    assert result.n_trials == 25
    best = max(range(25), key=lambda trial: log.figures[trial]["height"])
    assert log.told[best][2] == result.settings
    assert result.config == Config().with_overrides(result.settings)
    assert result.best == pytest.approx(hill(result.config).mean)
    assert result.base == pytest.approx(hill(Config()).mean)
    assert result.difference.mean == pytest.approx(result.best - result.base)
    assert result.difference.excludes_zero
    assert result.to_dict()["difference"]["excludes_zero"] is True


def test_the_same_seed_tries_the_same_and_another_does_not(tmp_path: Path) -> None:
    logs = [Recorder() for _ in range(3)]
    for place, (log, seed) in enumerate(zip(logs, (1, 1, 2), strict=True)):
        answer(tmp_path / str(place), 12, log, base=Config().with_overrides({"seed": seed}))

    assert logs[0].told == logs[1].told
    assert logs[0].told[0] == logs[2].told[0]  # the configuration itself
    assert all(a != b for a, b in zip(logs[0].told[1:], logs[2].told[1:], strict=True))
    assert len({str(told[2]) for told in logs[0].told}) == 12


@pytest.mark.parametrize("interrupted_at", [1, 6, 11])
def test_an_interrupted_search_goes_on_as_if_nothing_had_happened(tmp_path: Path, interrupted_at: int) -> None:
    whole, first, second = Recorder(), Recorder(), Recorder()
    expected = answer(tmp_path / "whole", 14, whole)
    calls = 0

    def fails_once(config: Config) -> Score:
        nonlocal calls
        calls += 1
        if calls == interrupted_at:
            raise KeyboardInterrupt
        return hill(config)

    with pytest.raises(KeyboardInterrupt):
        answer(tmp_path / "parts", 14, first, ask=question(fails_once))
    result = answer(tmp_path / "parts", 14, second)

    assert first.told + second.told == whole.told
    assert second.adopted == [f"hill {number}" for number in range(interrupted_at - 1)]
    assert result == expected


def test_a_finished_search_can_be_asked_for_more(tmp_path: Path) -> None:
    whole, first, second = Recorder(), Recorder(), Recorder()
    expected = answer(tmp_path / "whole", 12, whole)
    answer(tmp_path / "parts", 5, first)

    assert answer(tmp_path / "parts", 12, second) == expected
    assert len(second.told) == 7


def test_another_base_is_another_search(tmp_path: Path) -> None:
    log = Recorder()
    answer(tmp_path, 2, log)
    answer(tmp_path, 2, log, base=Config().with_overrides({"ranker.truncation": 7}))

    assert [told[1] for told in log.told] == [0, 1, 0, 1]


def test_no_more_is_tried_than_ten_times_per_setting(tmp_path: Path) -> None:
    asked = question()
    one = Question(asked.name, asked.metric, asked.settings[:1], asked.evaluate, asked.user_idx)

    assert answer(tmp_path, 99, Recorder(), ask=one).n_trials == 10


def test_after_the_deadline_only_the_configuration_itself_is_measured(tmp_path: Path) -> None:
    study = Study(question(), Config(), tmp_path, Recorder())

    assert study.run(9, time.monotonic() - 1.0, lambda done, total=0, note="": None).n_trials == 1


@pytest.mark.parametrize(("values", "count"), [([0.5, np.nan, 0.1, np.nan], "2 of 4"), ([], "0 of 0")])
def test_a_metric_that_is_not_defined_ends_the_search(tmp_path: Path, values: list[float], count: str) -> None:
    undefined = question(lambda _: Score(np.array(values), {}))

    with pytest.raises(DataError, match=rf"height is not defined for {count} validation requests"):
        answer(tmp_path, 3, Recorder(), ask=undefined)


def test_a_value_outside_the_bounds_widens_them() -> None:
    setting = Setting("ranker.num_leaves", 4, 120, is_log=True)

    assert (setting.around(300).low, setting.around(300).high) == (4, 300)
    assert setting.around(30) == setting
    assert setting.around(0) == setting  # has no logarithm
    assert setting.nearest(0) == 4


@pytest.mark.parametrize(
    ("n_trials", "timeout", "message"),
    [(0, None, r"0 trials are none; try at least one"), (3, 0.0, r"a timeout of 0.0 minutes leaves no time")],
)
def test_a_budget_of_nothing_is_refused(n_trials: int, timeout: float | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Budget.of(n_trials, timeout)


def test_the_best_configuration_is_written_as_one_that_training_reads(tmp_path: Path) -> None:
    uri = "postgresql://me:secret@db/mlflow"
    result = answer(tmp_path / "study", 9, Recorder(), base=Config().with_overrides({"tracking.uri": uri}))
    file = tmp_path / "best.yaml"

    file.write_text(config_text(result.config, (result,), password=True), encoding="utf-8")

    assert Config.from_yaml(file) == result.config
    assert "# hill: height " in file.read_text(encoding="utf-8")
    assert "4 validation requests, 9 trials" in file.read_text(encoding="utf-8")
    assert "secret" not in config_text(result.config, (result,), password=False)
