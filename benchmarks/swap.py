"""Measures what callers notice of new champions: lists at a low rate, first in quiet, then while versions take turns.

    .venv/bin/python benchmarks/swap.py --bundle FOLDER

The alias of a registry of its own moves between two versions of the bundle, each time as soon as every process has
taken over the last. Load generator and server share the machine.
"""

import re
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.load import drive  # noqa: E402
from benchmarks.server_process import Server, machine_facts, serving  # noqa: E402
from benchmarks.serving import N_SHOTS, SEED, bundle_of, parser_of, write_report  # noqa: E402
from benchmarks.traffic import Traffic  # noqa: E402
from recsys.bundle import load_bundle  # noqa: E402
from recsys.client import Client  # noqa: E402
from recsys.errors import RecsysError  # noqa: E402
from recsys.mlflow_store import mlflow  # noqa: E402
from recsys.registry import Registry  # noqa: E402

OUT: Final = ROOT / "benchmarks" / "results" / "swap.json"
_MLMODEL: Final = "flavors:\n  python_function:\n    artifacts:\n      bundle:\n        path: artifacts/bundle\n"
_SWAPPED: Final = re.compile(r'^recsys_notices_total\{notice="model_swapped"\} (\S+)', re.MULTILINE)
_LOOK_S: Final = 0.2


class Swapping(threading.Thread):
    """Moves the champion between two versions until it is stopped.

    seconds: from each move of the alias until all processes of the server answered with the new version, rising in
    time. problem: why it ended by itself; None where it did not.
    """

    def __init__(self, server: Server, registry: Registry) -> None:
        super().__init__(name="swapping", daemon=True)
        self.seconds: list[float] = []
        self.problem: str | None = None
        self._server = server
        self._registry = registry
        self._ending = threading.Event()

    def run(self) -> None:
        """Move, wait, and move back."""
        try:
            with Client(self._server.address, timeout_s=30.0) as client:
                while not self._ending.is_set():
                    self._swap(client, "2" if len(self.seconds) % 2 == 0 else "1")
        except RecsysError as error:
            self.problem = str(error)

    def stop(self) -> None:
        """End once the swap that has begun is done."""
        self._ending.set()
        self.join()

    def _swap(self, client: Client, version: str) -> None:
        wanted = (len(self.seconds) + 1) * self._server.workers
        self._registry.promote(version)
        began = time.perf_counter()
        while _n_swapped(client) < wanted:
            time.sleep(_LOOK_S)
        self.seconds.append(round(time.perf_counter() - began, 2))


def measure_swap(folder: Path, *, workers: int, rate: float, seconds: float) -> dict[str, Any]:
    """Return latency, refusals and failures of lists in quiet and while versions are swapped, and the swaps."""
    machine = machine_facts()
    bundle = load_bundle(folder)
    rng = np.random.default_rng(SEED)
    with tempfile.TemporaryDirectory(prefix="recsys-swap-") as work:
        registry = _two_versions(folder, Path(work))
        settings = {"tracking_uri": registry.uri, "poll_s": 1.0, "cache": Path(work) / "cache"}
        with serving(None, workers=workers, **settings) as server:
            shots = Traffic.of(bundle, server.address).lists(N_SHOTS, rng)
            drive(server.address, shots, rate, min(seconds, 5.0), rng)  # warm-up
            before = drive(server.address, shots, rate, seconds, rng).summary("list")
            swapping = Swapping(server, registry)
            swapping.start()
            during = drive(server.address, shots, rate, seconds, rng).summary("list")
            swapping.stop()
    is_whole = not (during["failed"] or during["refused"] or swapping.problem) and bool(swapping.seconds)
    return {
        "bundle": {"bundle_id": bundle.manifest.bundle_id, "data": bundle.manifest.data},
        "machine": machine,
        "workers": workers,
        "rate": rate,
        "seconds": seconds,
        "before": before,
        "during": during,
        "swap_s": swapping.seconds,
        "problem": swapping.problem,
        "held": is_whole,
    }


def _n_swapped(client: Client) -> int:
    found = _SWAPPED.search(client.metrics())
    return int(float(found[1])) if found else 0


def _two_versions(bundle: Path, work: Path) -> Registry:
    """Return a registry in a folder with the bundle as versions 1, the champion, and 2."""
    registry = Registry(f"sqlite:///{work / 'mlflow.db'}")
    client = mlflow.MlflowClient(tracking_uri=registry.uri)
    experiment = client.create_experiment("swap", artifact_location=(work / "artifacts").as_uri())
    for version in ("1", "2"):
        model = work / f"model-{version}"
        shutil.copytree(bundle, model / "artifacts" / "bundle")
        (model / "MLmodel").write_text(_MLMODEL, encoding="utf-8")
        registry.register(client.create_run(experiment).info.run_id, model.as_uri())
    return registry


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write; returns 0 where no request failed, 1 where one did, 2 for input that cannot be used."""
    parser = parser_of(__doc__, seconds=60.0, out=OUT)
    parser.add_argument("--rate", type=float, default=20.0, help="lists a second")
    args = parser.parse_args(arguments)
    try:
        folder = args.bundle or bundle_of(args.data)
        report = measure_swap(folder, workers=args.workers, rate=args.rate, seconds=args.seconds)
    except RecsysError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    write_report(report, args.out)
    for name in ("before", "during"):
        print(f"{name}: {report[name]}")
    print(f"{len(report['swap_s'])} swaps, seconds each: {report['swap_s']}")
    print("held" if report["held"] else f"DID NOT HOLD: {report['problem'] or 'see the report'}")
    return 0 if report["held"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
