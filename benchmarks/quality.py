"""Measures the quality of the lists on a fixed suite: writes a JSON report and a plot.

    .venv/bin/python benchmarks/quality.py --suite ml-1m-loo --out benchmarks/results/ml-1m-loo.json

With --ablations the system is trained once more without each of its groups (where a suite draws several splits, on the
first of them), with --peers other libraries are run on the same split (`make bench-peers` sets up their environment).
The data is read from ../shared/data beside the project, the folder RECSYS_DATA names, or --data. What has finished is
kept in --work, from where the same command goes on.
"""

import argparse
import os
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.arms import ARMS, TrialFits, arms_of, measure_arm, measure_trial  # noqa: E402
from benchmarks.peers.published import published_for  # noqa: E402
from benchmarks.peers.registry import peers_for  # noqa: E402
from benchmarks.peers.runner import Protocol, peer_task, run_peers, values_of  # noqa: E402
from benchmarks.suites import SUITES, Suite, Trial  # noqa: E402
from benchmarks.text_systems import (  # noqa: E402
    FROZEN_FIELDS,
    FROZEN_TEXT,
    ONE_TEXT_TOKENS,
    TF_IDF,
    TUNED_FIELDS,
    TUNED_TEXT,
    TUNED_WITH_TF_IDF,
    Embedded,
    encoded_texts,
    measure_profile,
    measure_regression,
    one_text,
    tf_idf,
)
from recsys.config import Config  # noqa: E402
from recsys.datasets.dataset import Dataset  # noqa: E402
from recsys.errors import RecsysError  # noqa: E402
from recsys.evaluation.intervals import Interval, paired_difference  # noqa: E402
from recsys.evaluation.report import SuiteReport  # noqa: E402
from recsys.preset_files import preset_for  # noqa: E402
from training.candidates import candidate_recall  # noqa: E402
from training.desk import Desk, seed_for  # noqa: E402
from training.evaluation import FULL, Evaluation, Measured  # noqa: E402
from training.progress import Reporter  # noqa: E402
from training.timings import StageClock  # noqa: E402
from training.work import WorkFolder  # noqa: E402


@dataclass(frozen=True)
class Extras:
    """What is measured beside the system and its parts. arms, peers: by name."""

    arms: Sequence[str] = ()
    peers: Sequence[str] = ()


@dataclass
class SuiteRun:
    """One run of a suite, seed by seed."""

    suite: Suite
    data_folder: Path
    desk: Desk
    extras: Extras
    peer_reports: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    failed_peers: dict[str, str] = field(default_factory=dict)
    candidates: dict[str, Any] = field(default_factory=dict)
    text_gain: Interval | None = None
    of_first_seed: list[str] = field(default_factory=list)
    tf_idf: Embedded | None = None

    def measure(self, config: Config) -> Evaluation:
        """Return all systems on all requests of all seeds; the ablations on those of the first seed."""
        seeds = self.suite.seeds or (config.seed,)
        parts = []
        for place, seed in enumerate(seeds):
            work = WorkFolder(self.desk.work.folder / f"seed-{seed}")
            arms = () if place else self.extras.arms
            parts.append(self._measure_seed(config.with_overrides({"seed": seed}), arms, replace(self.desk, work=work)))
        joined = Measured.join(parts)
        evaluation = joined.summarised(config.evaluation, seed_for(config.seed, "summary"))
        self.of_first_seed = [name for name in parts[0].results if name not in joined.results]
        if not self.of_first_seed:
            return evaluation
        first = parts[0].only([FULL, *self.of_first_seed])
        apart = first.summarised(config.evaluation, seed_for(config.seed, "summary of the first seed"))
        return replace(
            evaluation,
            systems=evaluation.systems | {name: apart.systems[name] for name in self.of_first_seed},
            differences=evaluation.differences | apart.differences,
            slices=evaluation.slices | {name: apart.slices[name] for name in self.of_first_seed},
        )

    def _measure_seed(self, config: Config, arms: Sequence[str], desk: Desk) -> Measured:
        suite = self.suite
        dataset = desk.run("data", lambda _: suite.load(self.data_folder, suite.folder, config))
        folder = self.data_folder / suite.folder
        trial = suite.trial(dataset, folder, config, desk)
        fits = TrialFits.of(trial, desk)
        measured = measure_trial(trial, fits, desk)
        if suite.reports_candidates and not self.candidates:
            self.candidates = desk.run("recall of the sources", lambda _: candidate_recall(fits.parts[0]))
        measured = self._with_text_systems(measured, trial, dataset, desk)
        for name in arms_of(arms, config):
            desk.reporter.say(f"-- {name}")
            arm = measure_arm(name, trial, fits, desk, lambda other, at: suite.trial(dataset, folder, other, at))
            measured = measured.beside(name, arm.results[FULL], arm.lists[FULL])
        return self._with_peers(measured, trial, fits, dataset, desk) if self.extras.peers else measured

    def _with_text_systems(self, measured: Measured, trial: Trial, dataset: Dataset, desk: Desk) -> Measured:
        """Return the figures with those of texts alone beside them; on items without behaviour by a regression."""
        corpus = trial.parts[0]
        data = one_text(dataset, corpus.config) if self.suite.hides_items else corpus.data
        if self.tf_idf is None:  # the texts are the same in every split
            self.tf_idf = desk.run("tf-idf", lambda _: tf_idf(trial, data.catalogue.texts))
        baseline = self.tf_idf
        if not self.suite.hides_items:
            return measured.beside(TF_IDF, *measure_profile(trial, baseline.test, measured))
        apart = replace(desk, work=WorkFolder(desk.work.folder / "one-text"))
        whole = replace(desk, work=WorkFolder(desk.work.folder / "all-fields"))
        tuned = encoded_texts(trial, data, apart, frozen=False, n_tokens=ONE_TEXT_TOKENS)
        found = {
            f"text alone, {TF_IDF}": baseline,
            FROZEN_TEXT: encoded_texts(trial, data, apart, frozen=True, n_tokens=ONE_TEXT_TOKENS),
            TUNED_TEXT: tuned,
            TUNED_WITH_TF_IDF: tuned.beside(baseline),
            FROZEN_FIELDS: encoded_texts(trial, corpus.data, whole, frozen=True),
            TUNED_FIELDS: Embedded.of(trial),
        }
        for name, embedded in found.items():
            metrics, lists, penalty = desk.run(
                name, lambda _, embedded=embedded, so_far=measured: measure_regression(trial, embedded, so_far)
            )
            desk.reporter.say(f"  {name}: penalty {penalty:g}")
            measured = measured.beside(name, metrics, lists)
        of_tuned, of_frozen = (measured.results[name].arrays()["ndcg@20"] for name in (TUNED_TEXT, FROZEN_TEXT))
        self.text_gain = paired_difference(
            of_tuned,
            of_frozen,
            clusters=measured.results[TUNED_TEXT].clusters(),
            rng=np.random.default_rng(seed_for(trial.parts[0].config.seed, "text gain")),
        )
        return measured

    def _with_peers(self, measured: Measured, trial: Trial, fits: TrialFits, dataset: Dataset, desk: Desk) -> Measured:
        corpus = fits.test.corpus
        protocol = Protocol(
            self.suite.name, self.suite.metric, corpus.config.evaluation.k, corpus.config.seed, self.suite.hides_items
        )
        values = values_of(dataset, corpus.data.log)
        task = peer_task(corpus.data, corpus.split, trial.requests, protocol, values=values)
        user_ids, work = corpus.data.user_ids, desk.work.folder / "peers"
        # As our own settings do, those of a peer stay what the first split of several found.
        chosen = {name: reports[0]["settings"] for name, reports in self.peer_reports.items()}
        names = [name for name in self.extras.peers if name not in self.failed_peers]
        results, failed = run_peers(task, trial.requests, user_ids, names, work, desk.reporter, chosen=chosen)
        self.failed_peers |= {name: str(error) for name, error in failed.items()}
        for name, result in results.items():
            measured = measured.beside(f"peer:{name}", result.metrics, result.lists)
            self.peer_reports.setdefault(name, []).append(result.report)
        return measured


def suite_config(suite: Suite, seed: int, overrides: list[str]) -> Config:
    """Return the preset of the suite's kind of data with the suite's protocol and the caller's settings on top."""
    settings = {f"{section}.{key}": value for section, keys in suite.settings.items() for key, value in keys.items()}
    given: dict[str, Any] = {}
    for override in overrides:
        key, _, text = override.partition("=")
        given[key] = yaml.safe_load(text)
    return preset_for(suite.preset).with_overrides(settings | {"seed": seed} | given)


def run_suite(suite: Suite, data_folder: Path, config: Config, work: Path, extras: Extras) -> SuiteReport:
    """Run one suite and return its report.

    A peer that fails on one of several splits is left out of all: `environment["failed_peers"]` has its error by name.
    """
    started = time.perf_counter()
    with StageClock() as clock:
        desk = Desk(WorkFolder(work), Reporter(), clock, embeddings=WorkFolder(work / "embeddings"))
        run = SuiteRun(suite, data_folder, desk, extras)
        evaluation = run.measure(config)
    gain = run.text_gain
    return SuiteReport(
        suite=suite.name,
        split=suite.split,
        seed=config.seed,
        systems=evaluation.systems,
        differences=evaluation.differences,
        slices=evaluation.slices,
        seconds=round(time.perf_counter() - started, 1),
        peak_rss_mb=round(clock.root.peak_rss_mb, 1),
        environment={
            "python": platform.python_version(),
            "cpus": os.cpu_count(),
            "versions": {name: version(name) for name in ("numpy", "lightgbm", "implicit", "torch")},
            "seeds": list(suite.seeds or (config.seed,)),
            "n_requests": evaluation.n_requests,
            "of_first_seed": run.of_first_seed,
            "stages": {name: round(stage.seconds, 1) for name, stage in clock.by_path().items() if "/" not in name},
            "config": config.model_dump(mode="json", exclude={"tracking"}),
            "candidates": run.candidates,
            "peers": run.peer_reports,
            "failed_peers": run.failed_peers,
            "published": published_for(suite.name),
            "fine-tuned over frozen text, ndcg@20": None
            if gain is None
            else {"mean": gain.mean, "lo": gain.lo, "hi": gain.hi},
        },
    )


def main() -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", required=True, choices=sorted(SUITES))
    parser.add_argument("--out", required=True, type=Path, help="JSON report; the plot is written beside it as .png")
    parser.add_argument(
        "--data", type=Path, default=Path(os.environ.get("RECSYS_DATA", ROOT.parent / "shared" / "data"))
    )
    parser.add_argument(
        "--seed", type=int, default=42, help="seed of the training; splits that are drawn have their own"
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a setting")
    parser.add_argument("--work", type=Path, help="folder that keeps finished stages between runs; default: a new one")
    parser.add_argument("--ablations", action="store_true", help="also train without each group")
    parser.add_argument("--arm", action="append", choices=sorted(ARMS), help="only these ablations; may be repeated")
    parser.add_argument("--peers", action="store_true", help="also run the peers that the suite can be asked of")
    parser.add_argument("--peer", action="append", metavar="NAME", help="only these peers; may be repeated")
    arguments = parser.parse_args()
    suite = SUITES[arguments.suite]
    extras = Extras(
        arguments.arm or (suite.arms if arguments.ablations else ()),
        arguments.peer or (tuple(peers_for(suite.name)) if arguments.peers else ()),
    )
    try:
        config = suite_config(suite, arguments.seed, arguments.set)
        with tempfile.TemporaryDirectory() as scratch:
            report = run_suite(suite, arguments.data, config, arguments.work or Path(scratch), extras)
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        report.write_json(arguments.out)
        report.plot(arguments.out.with_suffix(".png"))
    except RecsysError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(report.to_markdown_table())
    print(f"{report.seconds:.0f} s, peak {report.peak_rss_mb:.0f} MB; written to {arguments.out}")
    if failed := report.environment["failed_peers"]:
        for error in failed.values():
            print(f"error: {error}", file=sys.stderr)
        print(f"error: the report lacks {len(failed)} peers: {', '.join(failed)}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
