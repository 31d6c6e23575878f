"""Prints how the reports in benchmarks/results/ stand against the goals, as Markdown.

.venv/bin/python benchmarks/goals.py
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.text_systems import TUNED_TEXT  # noqa: E402
from recsys.evaluation.intervals import Interval  # noqa: E402
from recsys.evaluation.report import FULL_SYSTEM, SuiteReport  # noqa: E402

_PEER = "peer:"
_ARMS = ("without ", "frozen ")


@dataclass(frozen=True)
class Goal:
    """One line of the table. found: the figure, whether it reaches the goal, from a suite's report."""

    suite: str
    what: str
    found: Callable[[SuiteReport], tuple[str, bool]]


def _at_least(system: str, metric: str, bound: float) -> Callable[[SuiteReport], tuple[str, bool]]:
    def found(report: SuiteReport) -> tuple[str, bool]:
        interval = report.systems[system][metric]
        return str(interval), interval.mean >= bound

    return found


def _times_best_peer(metric: str, factor: float) -> Callable[[SuiteReport], tuple[str, bool]]:
    def found(report: SuiteReport) -> tuple[str, bool]:
        peers = {name: table[metric].mean for name, table in report.systems.items() if name.startswith(_PEER)}
        if not peers:
            return "no peer was run", False
        best = max(peers, key=lambda name: peers[name])
        ratio = report.systems[FULL_SYSTEM][metric].mean / peers[best]
        return f"{ratio:.2f} times {best.removeprefix(_PEER)} ({peers[best]:.3f})", ratio >= factor

    return found


def _is_ahead(interval: Interval) -> bool:
    return interval.lo > 0.0


def _beats_parts(metric: str) -> Callable[[SuiteReport], tuple[str, bool]]:
    def found(report: SuiteReport) -> tuple[str, bool]:
        parts = {
            name: table[metric]
            for name, table in report.differences.items()
            if metric in table and not name.startswith((_PEER, *_ARMS))
        }
        nearest = min(parts, key=lambda name: parts[name].mean)
        return f"{parts[nearest]} over {nearest}", all(map(_is_ahead, parts.values()))

    return found


def _tuned_text(report: SuiteReport) -> tuple[str, bool]:
    difference = report.environment.get("fine-tuned over frozen text, ndcg@20")
    if not difference:
        return "not measured", False
    interval = Interval(difference["mean"], difference["lo"], difference["hi"], 0)
    return f"{interval} over frozen", _is_ahead(interval)


GOALS = (
    Goal("ml-1m-loo", "NDCG@10 at least .205", _at_least(FULL_SYSTEM, "ndcg@10", 0.205)),
    Goal("ml-1m-loo", "1.2 times the best single peer", _times_best_peer("ndcg@10", 1.2)),
    Goal("ml-1m-loo", "beats each of its own parts", _beats_parts("ndcg@10")),
    Goal("ml-1m-cold", "NDCG@20 at least .42", _at_least(FULL_SYSTEM, "ndcg@20", 0.42)),
    Goal("ml-1m-cold", "from the text alone at least .34", _at_least(TUNED_TEXT, "ndcg@20", 0.34)),
    Goal("ml-1m-cold", "fine-tuned text ahead of frozen", _tuned_text),
    Goal("ml-1m-cold", "beats each of its own parts", _beats_parts("ndcg@20")),
    Goal("ml-100k-random", "nDCG@10 at least .52", _at_least(FULL_SYSTEM, "ndcg@10", 0.52)),
    Goal("ml-100k-random", "beats each of its own parts", _beats_parts("ndcg@10")),
    Goal("mind-zh-impressions", "AUC at least .65", _at_least(FULL_SYSTEM, "auc", 0.65)),
    Goal("mind-zh-impressions", "beats each of its own parts", _beats_parts("auc")),
)


def goals_table(folder: Path) -> str:
    """Return the goals with what the reports in a folder say of each; a dash where a suite has no report."""
    reports = {path.stem: SuiteReport.read_json(path) for path in sorted(folder.glob("*.json"))}
    lines = ["| suite | goal | found | reached |", "|---|---|---|---|"]
    for goal in GOALS:
        report = reports.get(goal.suite)
        figure, is_reached = goal.found(report) if report is not None else ("–", False)
        lines.append(f"| {goal.suite} | {goal.what} | {figure} | {'yes' if is_reached else 'no'} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    print(goals_table(parser.parse_args().results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
