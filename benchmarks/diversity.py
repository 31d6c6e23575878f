"""Measures what `diversity` of a request costs and brings: writes a JSON report and a plot of the curve.

    .venv/bin/python benchmarks/diversity.py --suite ml-1m-loo

The system is trained as `benchmarks/quality.py` trains it, with its finished stages kept in --work. Each request is
ranked once and cut to a list at every step of the knob. `--markdown` prints the tables of the reports there are;
`--markdown docs/diversity.md` puts them into the page.
"""

import argparse
import os
import platform
import re
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from threadpoolctl import threadpool_limits

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.arms import TrialFits  # noqa: E402
from benchmarks.suites import SUITES, Suite  # noqa: E402
from features.path import RankingPath  # noqa: E402
from recsys.config import Config  # noqa: E402
from recsys.datasets.dataset import Dataset  # noqa: E402
from recsys.datasets.simulated import SimulationConfig, simulate  # noqa: E402
from recsys.errors import RecsysError  # noqa: E402
from recsys.evaluation import Interval, PerRequestMetrics, ranking_metrics  # noqa: E402
from recsys.evaluation.beyond import Table, compare_lists, joined  # noqa: E402
from recsys.evaluation.report import FULL_SYSTEM, SuiteReport, compare_systems  # noqa: E402
from recsys.preset_files import parse_overrides, preset_for  # noqa: E402
from recsys.splits import Fold  # noqa: E402
from training.desk import Desk, seed_for  # noqa: E402
from training.evaluation import item_facts  # noqa: E402
from training.progress import Reporter  # noqa: E402
from training.requests import LabelledRequest  # noqa: E402
from training.side_by_side import in_blocks  # noqa: E402
from training.system import train_on_past  # noqa: E402
from training.timings import StageClock  # noqa: E402
from training.work import WorkFolder, stage_key  # noqa: E402

Int32 = npt.NDArray[np.int32]

RESULTS: Final = ROOT / "benchmarks" / "results"
K: Final = 10
DIVERSITIES: Final = tuple(step / 10 for step in range(11))
_SIMULATION_SEED: Final = 7
_COLUMNS: Final = (f"ndcg@{K}", f"ild@{K}", f"coverage@{K}", f"miscalibration@{K}", f"gini@{K}")
_PLACE: Final = re.compile(r"(<!-- table: (?P<name>\S+) -->\n).*?(<!-- end of table -->)", re.DOTALL)


def simulated_readers(*_: object) -> Dataset:
    """Return what readers did in the log of `recsys demo`, without its impressions: `leave_last` cannot divide them."""
    return replace(simulate(SimulationConfig(), _SIMULATION_SEED).dataset, impressions=None)


_PUBLISHED: Final = SUITES["ml-1m-loo"]
CURVES: Final = {
    _PUBLISHED.name: _PUBLISHED,
    "simulated": replace(_PUBLISHED, name="simulated", preset="demo", load=simulated_readers),
}


def name_of(diversity: float) -> str:
    """Return the name of a step in a report; the system without diversity is the full one."""
    return f"diversity={diversity:g}" if diversity else FULL_SYSTEM


def measure_curve(
    path: RankingPath,
    requests: Sequence[LabelledRequest],
    *,
    diversities: Sequence[float] = DIVERSITIES,
    k: int = K,
    n_bootstrap: int = 1000,
    seed: np.random.SeedSequence,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Table, Table]:
    """Return the figures of the lists of `k` at each diversity, and those without diversity minus them, paired.

    The rank of an item is its place in the list as it would be served. Intervals are over users.
    """
    names = [name_of(diversity) for diversity in diversities]

    def measure(_: int, block: Sequence[LabelledRequest]) -> tuple[dict[str, PerRequestMetrics], dict[str, Int32]]:
        results = {name: PerRequestMetrics() for name in names}
        lists = {name: np.full((len(block), k), -1, np.int32) for name in names}
        for place, labelled in enumerate(block):
            ranking = path.rank(labelled.request, exclude=labelled.exclude)
            for name, diversity in zip(names, diversities, strict=True):
                first = path.diversify(ranking, k, diversity).item_idx[:k]
                lists[name][place, : len(first)] = first
                ranks = np.flatnonzero(np.isin(first, labelled.relevant_idx)) + 1
                values = ranking_metrics(ranks, len(labelled.relevant_idx), (k,))
                kept = {metric: values[metric] for metric in (f"ndcg@{k}", f"hr@{k}")}
                results[name].add(str(labelled.request.user_idx), kept)
        return results, lists

    blocks = in_blocks(requests, measure, on_progress=lambda done: on_progress(done, len(requests)))
    results = {name: PerRequestMetrics.join([block[0][name] for block in blocks]) for name in names}
    lists = {name: np.concatenate([block[1][name] for block in blocks]) for name in names}
    accuracy_seed, lists_seed = seed.spawn(2)
    accuracy = compare_systems(results, n_bootstrap=n_bootstrap, rng=np.random.default_rng(accuracy_seed))
    beyond = compare_lists(
        lists,
        [labelled.request.history.item_idx for labelled in requests],
        item_facts(path),
        clusters=results[names[0]].clusters(),
        n_bootstrap=n_bootstrap,
        rng=np.random.default_rng(lists_seed),
    )
    return joined(accuracy[0], beyond[0]), joined(accuracy[1], beyond[1])


def suite_config(suite: Suite, seed: int, overrides: Sequence[str]) -> Config:
    """Return the preset of a suite's kind of data with the suite's protocol and the caller's settings on top."""
    settings = {f"{section}.{key}": value for section, keys in suite.settings.items() for key, value in keys.items()}
    return preset_for(suite.preset).with_overrides(settings | {"seed": seed} | parse_overrides(overrides))


def trained_path(
    suite: Suite, data_folder: Path, config: Config, desk: Desk
) -> tuple[RankingPath, list[LabelledRequest]]:
    """Return the system as it is before the test, and the requests of the test."""
    dataset = desk.run("data", lambda _: suite.load(data_folder, suite.folder, config))
    trial = suite.trial(dataset, data_folder / suite.folder, config, desk)
    fits = TrialFits.of(trial, desk)
    fit = train_on_past(fits.parts, desk, stage_key(trial.key, ""))
    return RankingPath(fits.test.models(Fold.TEST).with_ranker(fit.ranker)), trial.requests


def run(suite: Suite, data_folder: Path, config: Config, work: Path) -> SuiteReport:
    """Train on a suite and measure the curve there."""
    started = time.perf_counter()
    with StageClock() as clock:
        # The folders that quality.py has for this seed, so that either goes on from the other's stages.
        embeddings = WorkFolder(work / "embeddings")
        desk = Desk(WorkFolder(work / f"seed-{config.seed}"), Reporter(), clock, embeddings=embeddings)
        path, requests = trained_path(suite, data_folder, config, desk)
        with threadpool_limits(limits=1):
            systems, differences = desk.run(
                "curve",
                lambda advance: measure_curve(
                    path,
                    requests,
                    n_bootstrap=config.evaluation.n_bootstrap,
                    seed=seed_for(config.seed, "diversity"),
                    on_progress=advance,
                ),
            )
    return SuiteReport(
        suite=f"diversity-{suite.name}",
        split=suite.split,
        seed=config.seed,
        systems=systems,
        differences=differences,
        seconds=round(time.perf_counter() - started, 1),
        peak_rss_mb=round(clock.root.peak_rss_mb, 1),
        environment={
            "python": platform.python_version(),
            "cpus": os.cpu_count(),
            "versions": {name: version(name) for name in ("numpy", "lightgbm", "torch")},
            "n_requests": len(requests),
            "config": config.model_dump(mode="json", exclude={"tracking"}),
        },
    )


def diversity_of(name: str) -> float:
    """Return the diversity of a step of a report."""
    return 0.0 if name == FULL_SYSTEM else float(name.partition("=")[2])


def markdown(report: SuiteReport) -> str:
    """Return the curve as a Markdown table: figures with bounds, and the paired change of accuracy."""
    head = ["diversity", _COLUMNS[0], "against 0, paired", *_COLUMNS[1:]]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name, table in report.systems.items():
        gap = report.differences.get(name, {}).get(_COLUMNS[0])
        change = "" if gap is None else f"{-gap.mean:+.3f} [{-gap.hi:+.3f}, {-gap.lo:+.3f}]"
        cells = [f"{diversity_of(name):g}", str(table[_COLUMNS[0]]), change, *(str(table[c]) for c in _COLUMNS[1:])]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", f"{report.environment.get('n_requests', 0):,} requests, seed {report.seed}; {report.split}."]
    return "\n".join(lines) + "\n"


def put_tables(page: str, tables: dict[str, str]) -> str:
    """Return a page with each table at its place, from `<!-- table: NAME -->` to `<!-- end of table -->`.

    Places whose table is not given stay as they are.
    """
    return _PLACE.sub(lambda m: f"{m[1]}\n{tables[m['name']]}\n{m[3]}" if m["name"] in tables else m[0], page)


def plot(report: SuiteReport, path: Path) -> None:
    """Draw accuracy over diversity of the lists, and each figure over the knob, with bounds (PNG)."""
    steps = np.array([diversity_of(name) for name in report.systems])
    series = {column: [table[column] for table in report.systems.values()] for column in _COLUMNS}
    figure = Figure(figsize=(12, 6.6), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    panels = figure.subplots(2, 3).ravel()
    across, along = series[f"ild@{K}"], series[f"ndcg@{K}"]
    panels[0].errorbar(
        [x.mean for x in across], [y.mean for y in along], yerr=_arms(along), xerr=_arms(across), fmt="o-", capsize=2
    )
    for step, x, y in list(zip(steps, across, along, strict=True))[::2]:  # all of them would cover one another
        panels[0].annotate(f"{step:g}", (x.mean, y.mean), textcoords="offset points", xytext=(5, 5), fontsize="small")
    panels[0].set(title="the trade-off, by diversity", xlabel=f"ild@{K}", ylabel=f"ndcg@{K}")
    for panel, (column, values) in zip(panels[1:], series.items(), strict=True):
        panel.errorbar(steps, [value.mean for value in values], yerr=_arms(values), fmt="o-", capsize=2)
        panel.set(title=column, xlabel="diversity")
    for panel in panels:
        panel.grid(alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"{report.suite} · {report.split} · seed {report.seed}", fontsize="medium")
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.print_png(path)


def _arms(values: Sequence[Interval]) -> np.ndarray:
    """Return the lengths of error bars `(2, n)`; none where there are no bounds."""
    arms = np.array([(value.mean - value.lo, value.hi - value.mean) for value in values]).T
    return np.maximum(np.nan_to_num(arms), 0.0)


def show_tables(results: Path, page: Path | None) -> None:
    """Print the tables of all reports, or put them into a page."""
    tables = {path.stem: markdown(SuiteReport.read_json(path)) for path in sorted(results.glob("diversity-*.json"))}
    if page is None:
        print("\n".join(f"## {name}\n\n{table}" for name, table in tables.items()))
    else:
        page.write_text(put_tables(page.read_text(encoding="utf-8"), tables), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", choices=sorted(CURVES))
    parser.add_argument("--out", type=Path, help="JSON report, plot beside it; default: diversity-SUITE in the results")
    parser.add_argument(
        "--data", type=Path, default=Path(os.environ.get("RECSYS_DATA", ROOT.parent / "shared" / "data"))
    )
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a setting")
    parser.add_argument("--work", type=Path, help="folder that keeps finished stages between runs; default: a new one")
    parser.add_argument("--markdown", nargs="?", const="-", metavar="PAGE", help="tables of the reports there are")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the reports for --markdown")
    given = parser.parse_args(arguments)
    if given.suite is None and given.markdown is None:
        parser.error("say --suite NAME to measure, or --markdown for the tables")
    try:
        if given.suite is not None:
            suite = CURVES[given.suite]
            config = suite_config(suite, given.seed, given.set)
            with tempfile.TemporaryDirectory() as scratch:
                report = run(suite, given.data, config, given.work or Path(scratch))
            out = given.out or RESULTS / f"{report.suite}.json"
            report.write_json(out)
            plot(report, out.with_suffix(".png"))
            print(markdown(report))
        if given.markdown is not None:
            show_tables(given.results, None if given.markdown == "-" else Path(given.markdown))
    except RecsysError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
