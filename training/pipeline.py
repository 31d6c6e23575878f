"""A whole training: data in, a registered model version out. Every stage that has finished is kept until the end."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from recsys.bundle import write_bundle
from recsys.config import Config
from recsys.datasets import load_dataset
from recsys.datasets.dataset import Dataset
from recsys.datasets.encoded import encode_dataset, request_rows
from recsys.evaluation.report import SuiteReport
from recsys.models.fitted import FittedModels
from recsys.splits import make_split
from training.card_facts import CardFacts
from training.desk import Desk, seed_for
from training.evaluation import FULL, Evaluation
from training.figures import (
    embedding_projection,
    feature_importance,
    learning_curves,
    metric_bars,
    popularity_coverage_curve,
)
from training.fits import Fits
from training.fitting import Corpus, draw_pseudo_cold, draw_test_cold
from training.model_card import card_summary, model_card
from training.progress import Reporter
from training.ranker import RankerFit
from training.signals import Signals, apply_signals, fit_text
from training.system import measure, train_on_past
from training.text import TextStage
from training.tracking import TrainingRun, environment
from training.work import WorkFolder, stage_key


@dataclass(frozen=True)
class TrainingResult:
    """What a training left behind: a version in the registry, the run that tells its story, and what was measured."""

    version: str
    model_name: str
    run_id: str
    tracking_uri: str
    report: SuiteReport
    seconds: float
    peak_rss_mb: float
    stages: dict[str, float]


def train_folder(
    folder: Path | str,
    config: Config,
    *,
    data_format: str = "auto",
    runs_folder: Path = Path("runs"),
    quiet: bool = False,
) -> TrainingResult:
    """Train on a data folder, or on a database by its URL; see `train`.

    Raises:
        DataError: the data has faults; nothing was written.
    """
    reporter = Reporter(quiet=quiet)
    with reporter.stage("data"):
        dataset = load_dataset(folder, data_format, config.data)
    return train(dataset, config, runs_folder=runs_folder, reporter=reporter)


def train(
    dataset: Dataset, config: Config, *, runs_folder: Path = Path("runs"), reporter: Reporter | None = None
) -> TrainingResult:
    """Train, measure and register a version.

    1. fine-tune the encoder and fit factors and transitions on the past;
    2. train the ranker on the label window, which none of them has seen, stopping early on the window behind it;
    3. refit factors and transitions on all before the test window and measure there, against every part alone;
    4. refit them on everything, write the bundle, register it.

    An interrupted training leaves its finished stages in `runs_folder`, from where the same call goes on.
    """
    reporter = reporter or Reporter()
    fingerprint = dataset.fingerprint()
    whole_key = stage_key(fingerprint, config.model_dump(mode="json", exclude={"tracking"}))
    reporter.say(repr(dataset))
    for note, count in dataset.notes.items():
        reporter.say(f"  note: {count} × {note}")
    data = encode_dataset(dataset, config.data)
    split = make_split(data.log, data.impressions, config.split, came_with=request_rows(dataset, data))
    work = WorkFolder(runs_folder / f"{dataset.name}-{whole_key[:12]}")
    with TrainingRun(config, run_name=dataset.name, tags={"data.format": dataset.format}) as run:
        run.log_dataset(dataset.name, fingerprint, _counts(dataset))
        desk = Desk(work, reporter, run)
        rng = np.random.default_rng(seed_for(config.seed, "pseudo-cold"))
        pseudo_cold = draw_pseudo_cold(data, split, config, rng)
        test_cold = draw_test_cold(data, split, config, pseudo_cold, rng)
        # What is to look cold to the ranker must not have taught the encoder either.
        hidden_idx = np.union1d(pseudo_cold, test_cold)
        text = fit_text(dataset, data, split, config, desk, fingerprint, hidden_idx=hidden_idx)
        signals = apply_signals(dataset, data, split, text, config, desk, fingerprint)
        if signals.report:
            run.log_text(json.dumps(signals.report, indent=2, ensure_ascii=False), "signals.json")
        corpus = Corpus(
            signals.data, signals.split, signals.config, text.embeddings, text.encoder, pseudo_cold, test_cold
        )
        fits = Fits(corpus, desk)
        fit = train_on_past([fits], desk, fingerprint)
        path, evaluation = measure(fits, fit.ranker, desk)
        report = _report(dataset, config, text, fits, evaluation, run)
        with run.stage("pictures"):
            _log_pictures(run, path.models, path.feature_groups, text, fit, evaluation, report)
        run.log_curve("sequence", fits.sequence_curve)
        final = fits.models(None).with_ranker(fit.ranker)
        _log_card(run, dataset, fits, text, signals, evaluation, report, fingerprint)
        final = replace(final, sentiment=signals.head, seen=signals.data.seen)
        version = desk.run("bundle", lambda _: _register(run, final, text, work, dataset, fingerprint, evaluation))
    work.remove()
    return TrainingResult(
        version=version,
        model_name=config.tracking.model_name,
        run_id=run.run_id,
        tracking_uri=run.uri,
        report=report,
        seconds=run.total.seconds,
        peak_rss_mb=run.total.peak_rss_mb,
        stages={stage.name: stage.seconds for stage in run.total.stages},
    )


def _counts(dataset: Dataset) -> dict[str, int]:
    tables = {"items": dataset.items, "interactions": dataset.interactions, "impressions": dataset.impressions}
    return {"users": dataset.n_users} | {name: table.height for name, table in tables.items() if table is not None}


def _report(
    dataset: Dataset, config: Config, text: TextStage, fits: Fits, evaluation: Evaluation, run: TrainingRun
) -> SuiteReport:
    encoder = {name: text.report[name] for name in ("stopped_because", "seconds")}
    report = SuiteReport(
        suite=dataset.name,
        split=config.split.kind,
        seed=config.seed,
        systems=evaluation.systems,
        differences=evaluation.differences,
        slices=evaluation.slices,
        seconds=sum(stage.seconds for stage in run.total.stages),
        peak_rss_mb=run.total.peak_rss_mb,
        environment={"text encoder": encoder, "sequence model": fits.sequence_reports},
    )
    run.log_report(report.to_dict())
    return report


def _log_pictures(
    run: TrainingRun,
    models: FittedModels,
    feature_groups: Mapping[str, str],
    text: TextStage,
    fit: RankerFit,
    evaluation: Evaluation,
    report: SuiteReport,
) -> None:
    ranker_curve = [
        {"step": float(tree + 1)} | {name: values[tree] for name, values in fit.curve.items()}
        for tree in range(len(next(iter(fit.curve.values()), [])))
    ]
    run.log_curve("encoder", text.report["curve"])
    run.log_curve("ranker", ranker_curve)
    categories = models.catalogue.table["categories"] if "categories" in models.catalogue.table.columns else None
    figures = {
        "learning_curves": learning_curves(text.report["curve"], ranker_curve),
        "metrics": metric_bars(report.to_dict()["systems"]),
        "feature_importance": feature_importance(
            list(feature_groups), list(feature_groups.values()), fit.ranker.gain()
        ),
    }
    if text.encoder is not None:
        figures["item_embeddings"] = embedding_projection(
            models.item_embeddings,
            [names or [] for names in categories.to_list()]
            if categories is not None
            else [[] for _ in range(len(models.catalogue))],
        )
    if evaluation.lists is not None:
        lists = {name: [row[row >= 0].tolist() for row in rows] for name, rows in evaluation.lists.items()}
        figures["popularity_coverage"] = popularity_coverage_curve(lists, models.item_counts)
    run.log_figures(figures)


def _log_card(
    run: TrainingRun,
    dataset: Dataset,
    fits: Fits,
    text: TextStage,
    signals: Signals,
    evaluation: Evaluation,
    report: SuiteReport,
    fingerprint: str,
) -> None:
    corpus = fits.corpus
    facts = CardFacts(
        dataset=dataset,
        data=corpus.data,
        split=corpus.split,
        config=corpus.config,
        report=report,
        encoder=text.report,
        n_requests=evaluation.n_requests,
        run_id=run.run_id,
        model_name=corpus.config.tracking.model_name,
        fingerprint=fingerprint,
        environment=environment(),
        signals=signals.report,
        sequence=fits.sequence_reports,
    )
    run.log_card(model_card(facts), card_summary(facts))


def _register(
    run: TrainingRun,
    models: FittedModels,
    text: TextStage,
    work: WorkFolder,
    dataset: Dataset,
    fingerprint: str,
    evaluation: Evaluation,
) -> str:
    stage, stage_id = "bundle", stage_key(fingerprint, run.run_id)
    with work.writing(stage, stage_id) as folder:
        write_bundle(
            models,
            text.folder,
            folder / "bundle",
            data={"name": dataset.name, "format": dataset.format, "fingerprint": fingerprint} | _counts(dataset),
            metrics={name: interval.mean for name, interval in evaluation.systems[FULL].items()},
        )
        example = {"user_id": models.user_ids.id_of(0), "n": 10} if len(models.user_ids) else None
        return run.log_bundle(folder / "bundle", example=example, tags={"data": dataset.name})
