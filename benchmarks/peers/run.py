"""Runs one peer on one task, in the peers' own environment; the runner calls it.

.venv-peers/bin/python benchmarks/peers/run.py --task FOLDER --peer NAME --out FOLDER
"""

import argparse
import importlib
import json
import os
import resource
import sys
import time
import warnings
from importlib.metadata import version
from pathlib import Path

# This folder must not be on the path: a peer's module would hide a library of a like name.
sys.path[0] = str(Path(__file__).resolve().parents[2])

from benchmarks.peers.exchange import PeerTask, write_result  # noqa: E402
from benchmarks.peers.registry import PEERS  # noqa: E402
from benchmarks.peers.search import Run, answers  # noqa: E402


def peak_rss_mb() -> float:
    """Return the most memory this process has held, in MB.

    Linux says it per program; what `getrusage` says there also counts the program that started this one.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", required=True, type=Path)
    parser.add_argument("--peer", required=True, choices=sorted(PEERS))
    parser.add_argument("--out", required=True, type=Path, help="folder for scores.npy and report.json")
    parser.add_argument("--settings", type=json.loads, help="JSON of settings that are known; nothing is searched then")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # of the libraries, about each other
    task, spec = PeerTask.read(arguments.task), PEERS[arguments.peer]
    run: Run = importlib.import_module(f"benchmarks.peers.{spec.module}").RUNS[arguments.peer]
    outcome = run(task, arguments.settings)
    begun = time.perf_counter()
    scores = answers(outcome.scorer, task.requests, task.meta.kind)
    report = {
        "peer": arguments.peer,
        "task": task.meta.name,
        "versions": {name: version(name) for name in spec.libraries},
        "settings": outcome.settings,
        "search": outcome.tried,
        "search_seconds": round(outcome.search_seconds, 2),
        "train_seconds": round(outcome.train_seconds, 2),
        "score_seconds": round(time.perf_counter() - begun, 2),
        "peak_rss_mb": round(peak_rss_mb(), 1),
        "threads": os.environ.get("OMP_NUM_THREADS", "all"),
        **outcome.notes,
    }
    write_result(arguments.out, scores, report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
