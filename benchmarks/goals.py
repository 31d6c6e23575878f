"""Prints how the reports in benchmarks/results/ stand against the goals, as Markdown.

.venv/bin/python benchmarks/goals.py
"""

import argparse
import re
import sys
from collections.abc import Callable, Mapping, Sequence
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
        if system not in report.systems:
            return "not measured", False
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
        figure = f"{ratio:.2f} times {best.removeprefix(_PEER)} ({peers[best]:.3f})"
        if failed := report.environment.get("failed_peers"):
            return f"{figure}; {', '.join(failed)} failed", False  # the best one may be among them
        return figure, ratio >= factor

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

COLUMNS = {
    "ml-1m-loo": ["ndcg@10", "hr@10", "ndcg@20", "mrr"],
    "ml-1m-cold": ["ndcg@20", "recall@20", "ndcg@10"],
    "ml-100k-random": ["ndcg@10", "precision@10", "recall@10"],
    "mind-zh-impressions": ["auc", "mrr", "ndcg@5", "ndcg@10"],
}
BEYOND = ["coverage@10", "novelty@10", "ild@10", "miscalibration@10", "cold_share@10", "gini@10"]


def goals_table(folder: Path) -> str:
    """Return the goals with what the reports in a folder say of each; a dash where a suite has no report."""
    # Other measurements keep their reports in the same folder.
    paths = (folder / f"{suite}.json" for suite in dict.fromkeys(goal.suite for goal in GOALS))
    reports = {path.stem: SuiteReport.read_json(path) for path in paths if path.exists()}
    lines = ["| suite | goal | found | reached |", "|---|---|---|---|"]
    for goal in GOALS:
        report = reports.get(goal.suite)
        figure, is_reached = goal.found(report) if report is not None else ("–", False)
        lines.append(f"| {goal.suite} | {goal.what} | {figure} | {'yes' if is_reached else 'no'} |")
    return "\n".join(lines) + "\n"


def systems_table(report: SuiteReport, metrics: Sequence[str]) -> str:
    """Return every system's figures on a suite and how far the whole is ahead of it in the first metric."""
    lead = metrics[0]
    lines = [f"| system | {' | '.join(metrics)} | the whole is ahead by |", "|---|" + "---|" * (len(metrics) + 1)]
    for system, table in report.systems.items():
        ahead = str(report.differences[system][lead]) if system in report.differences else ""
        cells = [system, *(str(table[name]) if name in table else "–" for name in metrics), ahead]
        lines.append(f"| {' | '.join(f'**{cell}**' if cell and system == FULL_SYSTEM else cell for cell in cells)} |")
    return "\n".join(lines) + "\n"


def peers_table(report: SuiteReport) -> str:
    """Return what the peers of a suite cost: seconds of the search and of the last fit, memory, settings chosen."""
    lines = ["| peer | search s | training s | peak MB | settings |", "|---|---|---|---|---|"]
    for name, runs in report.environment.get("peers", {}).items():
        told = runs[0]
        settings = ", ".join(f"{key} {value}" for key, value in told["settings"].items())
        figures = (f"{told[key]:.0f}" for key in ("search_seconds", "train_seconds", "peak_rss_mb"))
        lines.append(f"| {name} | {' | '.join(figures)} | {settings} |")
    return "\n".join(lines) + "\n"


def published_table(report: SuiteReport, metric: str) -> str:
    """Return the published rows that a suite can be read beside."""
    lines = [f"| published | {metric} | source | how it differs |", "|---|---|---|---|"]
    lines.extend(
        f"| {row['system']} | {row['metrics'][metric]} | {row['source']} | {row['caveat']} |"
        for row in report.environment.get("published", [])
        if metric in row["metrics"]
    )
    return "\n".join(lines) + "\n"


def candidates_table(report: SuiteReport) -> str:
    """Return the recall of each candidate source alone, and what the whole would lose without it."""
    found = report.environment["candidates"]
    lines = [
        f"All sources together find {found['all']:.3f} of what {found['n_requests']} validation requests wanted.",
        "",
        "| source | finds alone | with how many items | adds |",
        "|---|---|---|---|",
    ]
    lines += [f"| {name} | {row['alone']:.3f} | {row['n']:.0f} | {row['adds']:+.4f} |"
              for name, row in found["sources"].items()]  # fmt: skip
    return "\n".join(lines) + "\n"


def tables(folder: Path) -> dict[str, str]:
    """Return every table by the name of its mark."""
    made = {"goals": goals_table(folder)}
    for suite, metrics in COLUMNS.items():
        path = folder / f"{suite}.json"
        if not path.exists():
            continue
        report = SuiteReport.read_json(path)
        made[suite] = systems_table(report, metrics)
        made[f"{suite} beyond"] = systems_table(report, [name for name in BEYOND if name in report.metric_names()])
        if report.environment.get("peers"):
            made[f"{suite} peers"] = peers_table(report)
        if report.environment.get("published"):
            made[f"{suite} published"] = published_table(report, metrics[0])
        if report.environment.get("candidates"):
            made[f"{suite} candidates"] = candidates_table(report)
    return made


def filled(page: str, made: Mapping[str, str]) -> str:
    """Return a page with each table between its marks, `<!-- NAME -->` and `<!-- end -->`; others stay as they are."""

    def put(match: re.Match[str]) -> str:
        name = match["name"]
        return f"<!-- {name} -->\n\n{made[name]}\n<!-- end -->" if name in made else match[0]

    return re.sub(r"<!-- (?P<name>[^>]+?) -->\n.*?<!-- end -->", put, page, flags=re.DOTALL)


def main() -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--page", type=Path, help="page to put the tables into")
    arguments = parser.parse_args()
    made = tables(arguments.results)
    if arguments.page is not None:
        page = arguments.page.read_text(encoding="utf-8")
        arguments.page.write_text(filled(page, made), encoding="utf-8")
    print(made["goals"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
