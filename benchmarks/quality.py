"""Measures the quality of the lists on a fixed suite: writes a JSON report and a plot.

    .venv/bin/python benchmarks/quality.py --suite ml-1m-loo --out benchmarks/results/ml-1m-loo.json

The data is read from ../shared/data beside the project, the folder RECSYS_DATA names, or --data.
"""

import argparse
import os
import platform
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.suites import SUITES, Suite, load_suite  # noqa: E402
from recsys.config import Config  # noqa: E402
from recsys.errors import RecsysError  # noqa: E402
from recsys.evaluation.report import SuiteReport  # noqa: E402
from recsys.preset_files import preset_for  # noqa: E402
from training.progress import Reporter  # noqa: E402
from training.system import Desk  # noqa: E402
from training.timings import StageClock  # noqa: E402
from training.work import WorkFolder  # noqa: E402


def suite_config(suite: Suite, seed: int, overrides: list[str]) -> Config:
    """Return the preset of the suite's kind of data with the suite's protocol and the caller's settings on top."""
    settings = {f"{section}.{key}": value for section, keys in suite.settings.items() for key, value in keys.items()}
    given: dict[str, Any] = {}
    for override in overrides:
        key, _, text = override.partition("=")
        given[key] = yaml_value(text)
    return preset_for(suite.preset).with_overrides(settings | {"seed": seed} | given)


def yaml_value(text: str) -> Any:
    """Return a command-line value as YAML reads it."""
    import yaml

    return yaml.safe_load(text)


def run_suite(suite: Suite, data_folder: Path, config: Config, work: Path) -> SuiteReport:
    """Run one suite and return its report."""
    reporter = Reporter()
    started = time.perf_counter()
    with StageClock() as clock:
        desk = Desk(WorkFolder(work), reporter, clock)
        dataset = desk.run("data", lambda _: load_suite(suite, data_folder, config))
        evaluation = suite.run(dataset, data_folder / suite.folder, config, desk)
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
            "n_requests": evaluation.n_requests,
            "stages": {stage.name: round(stage.seconds, 1) for stage in clock.root.stages},
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
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a setting")
    parser.add_argument("--work", type=Path, help="folder that keeps finished stages between runs; default: a new one")
    arguments = parser.parse_args()
    suite = SUITES[arguments.suite]
    try:
        config = suite_config(suite, arguments.seed, arguments.set)
        with tempfile.TemporaryDirectory() as scratch:
            report = run_suite(suite, arguments.data, config, arguments.work or Path(scratch))
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        report.write_json(arguments.out)
        report.plot(arguments.out.with_suffix(".png"))
    except RecsysError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(report.to_markdown_table())
    print(f"{report.seconds:.0f} s, peak {report.peak_rss_mb:.0f} MB; written to {arguments.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
