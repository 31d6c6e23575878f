"""`recsys train`, `recsys evaluate` and `recsys tune`: a new version, how one does on new data, better settings."""

import math
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from recsys.cli_data import ConfigFile, Format, Settings
from recsys.cli_output import AsJson, TrackingUri, note, say, say_json, say_table
from recsys.cli_serving import Alias, Bundle, ModelName, settings_from

if TYPE_CHECKING:
    from recsys.evaluation.report import SuiteReport
    from training.pipeline import TrainingResult
    from training.tune import TuneResult

_REFERENCE: Final = "random"  # a system that is no source of candidates
# What lists are judged by: the order of shown items by AUC, as news recommendation does, rankings by nDCG.
_HEADLINES: Final = ("auc", "ndcg@10")
# What lists are like beyond accuracy; a table of its own, so that either fits a terminal.
_BEYOND: Final = frozenset({"novelty", "ild", "miscalibration", "cold_share", "coverage", "gini"})

Data = Annotated[
    str,
    typer.Option(
        "--data",
        metavar="FOLDER|URL",
        help="Folder of the data, or the database of a service: sqlite:///recsys.db.",
        show_default=False,
    ),
]
Items = Annotated[
    str | None,
    typer.Option("--items", metavar="FILE", help="File or folder of items that a database lacks; data.items_file."),
]


def train(
    *,
    data: Data,
    items: Items = None,
    config: ConfigFile = None,
    format: Format = "auto",
    settings: Settings = None,
    runs_folder: Annotated[
        Path, typer.Option("--runs-folder", metavar="FOLDER", help="Where unfinished work is kept.")
    ] = Path("runs"),
    tracking_uri: TrackingUri = None,
    as_json: AsJson = False,
) -> None:
    """Train on a data folder or a service's database, measure the result, and register it as a version.

    The first version becomes champion, later ones challenger. Started again after an interruption, the same command
    goes on from the last finished stage.
    """
    from recsys.preset_files import parse_overrides
    from training.train import INTERRUPTED, result_values
    from training.train import train as start

    overrides = parse_overrides(settings or [], tracking_uri=tracking_uri)
    if items is not None:
        overrides["data.items_file"] = items
    try:
        result = start(data, config, format=format, overrides=overrides, runs_folder=runs_folder)
    except KeyboardInterrupt:
        note(INTERRUPTED)
        raise typer.Exit(130) from None
    if as_json:
        say_json(result_values(result))
    else:
        say_result(result, given_uri=tracking_uri)


def evaluate(
    *,
    data: Data,
    alias: Alias = None,
    bundle: Bundle = None,
    model_name: ModelName = None,
    format: Format = "auto",
    settings: Settings = None,
    tracking_uri: TrackingUri = None,
    as_json: AsJson = False,
) -> None:
    """Measure a version on what happened after its training.

    Only feedback that is newer than the version's own data is measured, so that nothing is measured on what it was
    trained with. --set reaches the version's own configuration, such as evaluation.max_requests=500.
    """
    from recsys.preset_files import parse_overrides
    from serving.loading import open_bundle
    from training.remeasure import remeasure

    chosen = settings_from(alias=alias, bundle=bundle, model_name=model_name, tracking_uri=tracking_uri)
    opened, model = open_bundle(chosen)
    found = remeasure(opened, data, format=format, overrides=parse_overrides(settings or []))
    if as_json:
        facts = {key: value for key, value in vars(found).items() if key != "report"}
        say_json({"model": model.name, "version": model.version} | facts | {"report": found.report.to_dict()})
        return
    say(f"{model.name} version {model.version[:12]}, measured on {found.n_requests:,} requests after {found.since}")
    say(
        f"left out: {found.unknown_items:,} rows on items it does not know; {found.unknown_users:,} users are new to it"
    )
    say()
    say_report(found.report)


def tune(
    *,
    data: Data,
    config: ConfigFile = None,
    format: Format = "auto",
    settings: Settings = None,
    trials: Annotated[int, typer.Option("--trials", help="Trials of each search, over all sessions.")] = 30,
    timeout_minutes: Annotated[
        float | None,
        typer.Option("--timeout-minutes", metavar="MINUTES", help="Begin no trial after this time; left out, no end."),
    ] = None,
    search: Annotated[str, typer.Option("--search", help="What to search: ranker, sources or all.")] = "all",
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where the best configuration goes.")] = Path(
        "best.yaml"
    ),
    runs_folder: Annotated[Path, typer.Option("--runs-folder", metavar="FOLDER", help="Where trials are kept.")] = Path(
        "runs"
    ),
    tracking_uri: TrackingUri = None,
    as_json: AsJson = False,
) -> None:
    """Search settings on the validation window and write the best ones as a configuration.

    The test is dropped from the data before anything is fitted. Started again, the same command goes on after the
    last finished trial. Every trial is an MLflow run within that of the search.
    """
    from recsys.datasets import format_of
    from recsys.preset_files import choose_config, parse_overrides
    from training.tune import Budget, checked_search, tune_folder

    reader = format_of(data, format)
    chosen = choose_config(config, reader, parse_overrides(settings or [], tracking_uri=tracking_uri))
    try:
        result = tune_folder(
            data,
            chosen,
            Budget.of(trials, timeout_minutes),
            search=checked_search(search),
            out=out,
            data_format=reader,
            runs_folder=runs_folder,
        )
    except KeyboardInterrupt:
        note("interrupted; the same command goes on after the last finished trial")
        raise typer.Exit(130) from None
    if as_json:
        say_json(result.to_dict())
    else:
        say_search(result)


def say_search(result: "TuneResult") -> None:
    """Print what a search found, and what to type next."""
    for study in result.studies:
        gap = study.difference
        bounds = "" if math.isnan(gap.lo) else f" [{gap.lo:+.3f}, {gap.hi:+.3f}]"
        verdict = "" if gap.excludes_zero else "; no difference shown"
        say(
            f"{study.name}: {study.metric} {study.base:.4f} -> {study.best:.4f} in {study.n_trials} trials, "
            f"{gap.mean:+.3f}{bounds} paired over {study.n_requests:,} validation requests{verdict}"
        )
        for key, value in study.settings.items():
            say(f"  {key}: {value:.4g}" if isinstance(value, float) else f"  {key}: {value}")
    say()
    say(f"best configuration: {result.out}; run {result.run_id}; trials and rows: {result.work}")
    say(f"next: recsys train --data FOLDER --config {result.out}")


def say_result(result: "TrainingResult", *, given_uri: str | None) -> None:
    """Print what a training left behind, how it did, and what to type next."""
    from recsys.mlflow_store import default_uri, shown_uri
    from recsys.registry import Registry

    ref = Registry(result.tracking_uri, result.model_name).resolve(result.version)
    role = f", {ref.alias}" if ref.alias else ""
    say(f"{result.model_name} version {result.version}{role}")
    say(f"registered at {shown_uri(result.tracking_uri)} (run {result.run_id})")
    say(f"{result.seconds:.0f} s, {result.peak_rss_mb / 1024:.1f} GiB of memory at most")
    say()
    say_report(result.report)
    say()
    say("next:")
    # What the store is found by without being told needs not be typed.
    uri = given_uri or (result.tracking_uri if result.tracking_uri != default_uri() else None)
    for command in next_commands(result, ref.alias, example_user(result), uri):
        say(f"  {command}")


def say_report(report: "SuiteReport") -> None:
    """Print every system's metrics with intervals, and the full system against the best single source."""
    names = report.metric_names()
    of_accuracy = [name for name in names if name.split("@")[0] not in _BEYOND]
    beyond = [name for name in names if name not in of_accuracy]
    say_table(["system", *of_accuracy], _cells(report, of_accuracy))
    if beyond:
        say()
        say_table(["system", *beyond], _cells(report, beyond))
    if (lead := lead_over_best_source(report)) is not None:
        say()
        say(lead)


def _cells(report: "SuiteReport", metrics: Sequence[str]) -> list[list[object]]:
    return [[system, *(table.get(name) for name in metrics)] for system, table in report.systems.items()]


def lead_over_best_source(report: "SuiteReport") -> str | None:
    """Return the paired difference of the full system and the best single source in words; None where there is none.

    The best source is the one with the highest mean of the same metric: `auc` where lists were ordered, else `ndcg@10`.
    """
    names = report.metric_names()
    metric = next((name for name in (*_HEADLINES, *names) if name in names), None)
    if metric is None:
        return None
    means = {
        system: table[metric].mean
        for system, table in report.systems.items()
        if system in report.differences and system != _REFERENCE and metric in table
    }
    means = {system: mean for system, mean in means.items() if not math.isnan(mean)}
    if not means:
        return None
    best = max(means, key=means.__getitem__)
    gap = report.differences[best][metric]
    if math.isnan(gap.lo):
        verdict = "too few users for an interval"
    else:
        verdict = "the interval excludes zero" if gap.excludes_zero else "no difference shown: the interval holds zero"
    bounds = "" if math.isnan(gap.lo) else f" [{gap.lo:+.3f}, {gap.hi:+.3f}]"
    return f"full against the best single source, {best}: {metric} {gap.mean:+.3f}{bounds}, paired; {verdict}"


def next_commands(result: "TrainingResult", alias: str | None, user_id: str | None, uri: str | None) -> list[str]:
    """Return the commands that one types after a training. uri: the store, where a command has to be told it."""
    from recsys.mlflow_store import shown_uri

    store = ["--tracking-uri", uri] if uri else []
    named = ["--model-name", result.model_name] if result.model_name != "recsys" else []
    version = [] if alias == "champion" else ["--alias", result.version]
    user = ["--user", user_id] if user_id is not None else []
    commands = [["recsys", "recommend", *user, *version, *named, *store]]
    if alias != "champion":
        commands.append(["recsys", "compare", "champion", result.version, *named, *store])
        commands.append(["recsys", "promote", result.version, *named, *store])
    commands.append(["recsys", "serve", *version, *named, *store])
    if not result.tracking_uri.startswith("http"):
        commands.append(["mlflow", "ui", "--backend-store-uri", result.tracking_uri])
    return [shown_uri(shlex.join([_as_typed(command[0]), *command[1:]])) for command in commands]


def _as_typed(program: str) -> str:
    """Return how a program of this environment is called from here: by name where the shell finds it."""
    beside = Path(sys.executable).with_name(program)
    if shutil.which(program) is not None or not beside.exists():
        return program
    return os.path.relpath(beside) if beside.is_relative_to(Path.cwd()) else str(beside)


def example_user(result: "TrainingResult") -> str | None:
    """Return a user of a new version with a history of usual length, None where nobody has one.

    Raises:
        BundleError, RegistryError: the version that was just registered cannot be loaded.
    """
    import numpy as np

    from serving.loading import open_bundle
    from serving.settings import Settings

    settings = Settings(model_name=result.model_name, alias=result.version, tracking_uri=result.tracking_uri)
    models = open_bundle(settings)[0].models
    lengths = np.diff(models.log.indptr)
    active = np.flatnonzero(lengths)
    if not len(active):
        return None
    usual = np.median(lengths[active])
    return models.user_ids.id_of(int(active[np.argmin(np.abs(lengths[active] - usual))]))
