"""Keeps the service under load while events and items come in, and looks whether anything fails or memory grows.

.venv/bin/python benchmarks/soak.py --bundle FOLDER --seconds 600
"""

import sys
import threading
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.load import drive  # noqa: E402
from benchmarks.server_process import Server, machine_facts, serving  # noqa: E402
from benchmarks.serving import (  # noqa: E402
    EVENT_SHARE,
    LOAD_SHARE,
    N_SHOTS,
    SEED,
    bundle_of,
    find_capacity,
    parser_of,
    write_report,
)  # fmt: skip
from benchmarks.traffic import Traffic  # noqa: E402
from recsys.bundle import load_bundle  # noqa: E402
from recsys.client import Client, ClientError, ServiceError  # noqa: E402
from recsys.errors import RecsysError  # noqa: E402

OUT: Final = ROOT / "benchmarks" / "results" / "soak.json"
MAX_GROWTH: Final = 0.05
WARM_UP_S: Final = 30.0
_SAMPLE_S: Final = 2.0
_ITEM_S: Final = 1.0


class Watch(threading.Thread):
    """Puts an item now and then, and writes down the server's memory, until it is stopped."""

    def __init__(self, server: Server) -> None:
        super().__init__(daemon=True)
        self._server = server
        self._ended = threading.Event()
        self.samples: list[dict[str, float]] = []
        self.puts = self.failed_puts = 0
        self.offers_items = True
        self.problem: str | None = None

    def run(self) -> None:
        began = time.monotonic()
        next_sample = next_item = 0.0
        with Client(self._server.address, timeout_s=10.0, retries=0) as client:
            while not self._ended.wait(0.1):
                now = time.monotonic() - began
                try:
                    if now >= next_sample:
                        self.samples.append({"at_s": round(now, 1)} | self._server.memory_mb())
                        next_sample = now + _SAMPLE_S
                    if now >= next_item and self.offers_items:
                        self._put(client)
                        next_item = now + _ITEM_S
                except RecsysError as error:  # the server ended: told in the report
                    self.problem = str(error)
                    return

    def stop(self) -> None:
        self._ended.set()
        self.join()

    def _put(self, client: Client) -> None:
        # Ten ids in turn: the catalogue does not grow, so memory must not either.
        try:
            client.put_item(f"soak-{self.puts % 10}", title=f"Soaked {uuid.uuid4().hex[:8]}")
            self.puts += 1
        except ServiceError as error:
            self.offers_items = error.status not in (404, 405)
            self.failed_puts += self.offers_items and error.status not in (429, 503)
        except ClientError:
            self.failed_puts += 1


def growth(samples: Sequence[dict[str, float]], kind: str, seconds: float) -> float | None:
    """Return how much more memory the last part took than the first, as a share; parts of a minute at most."""
    part_s = min(60.0, seconds / 4)
    if not samples:
        return None
    first_s, last_s = samples[0]["at_s"], samples[-1]["at_s"]
    first = [sample[kind] for sample in samples if sample["at_s"] <= first_s + part_s]
    last = [sample[kind] for sample in samples if sample["at_s"] >= last_s - part_s]
    return round(float(np.median(last) / np.median(first)) - 1.0, 4)


def soak(folder: Path, *, workers: int, seconds: float, rate: float | None, warm_up_s: float) -> dict[str, Any]:
    """Return what happened: answers by kind, memory over time, and whether the goals hold."""
    machine = machine_facts()
    bundle = load_bundle(folder)
    rng = np.random.default_rng(SEED)
    with serving(folder, workers=workers) as server:
        traffic = Traffic.of(bundle, server.address)
        shots = traffic.lists(N_SHOTS, rng) + traffic.events(int(N_SHOTS * EVENT_SHARE / (1 - EVENT_SHARE)), rng)
        if rate is None:
            rate = max(LOAD_SHARE * find_capacity(server, shots, 5.0, rng)["rate"], 1.0)
        drive(server.address, shots, rate, warm_up_s, rng)
        watch = Watch(server)
        watch.start()
        answers = drive(server.address, shots, rate, seconds, rng)
        watch.stop()
    total = answers.summary()
    grown = {kind: growth(watch.samples, kind, seconds) for kind in ("rss", "uss", "pss")}
    is_flat = all(grown[kind] is not None and grown[kind] <= MAX_GROWTH for kind in ("rss", "pss"))
    has_errors = bool(total["failed"] or watch.failed_puts or watch.problem)
    return {
        "machine": machine,
        "workers": workers,
        "rate": round(rate, 1),
        "seconds": seconds,
        "answers": {"all": total} | {kind: answers.summary(kind) for kind in answers.kinds},
        "items_put": watch.puts if watch.offers_items else "this version takes no items",
        "items_failed": watch.failed_puts,
        "problem": watch.problem,
        "memory_growth": grown,
        "memory_mb": watch.samples,
        "held": is_flat and not has_errors,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print and write; returns 0 where all held, 1 where not, 2 for input that cannot be used."""
    parser = parser_of(__doc__, seconds=600.0, out=OUT)
    parser.add_argument("--warm-up", type=float, default=WARM_UP_S, help="seconds of load before")
    parser.add_argument("--rate", type=float, help="requests a second; left out, 80 %% of what is found to be possible")
    args = parser.parse_args(arguments)
    try:
        report = soak(
            args.bundle or bundle_of(args.data),
            workers=args.workers,
            seconds=args.seconds,
            rate=args.rate,
            warm_up_s=args.warm_up,
        )
    except RecsysError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    write_report(report, args.out)
    print(f"{report['rate']} requests/s for {report['seconds']:g} s: {report['answers']['all']}")
    print(f"memory grew by {report['memory_growth']}; items put: {report['items_put']}")
    print("held" if report["held"] else f"DID NOT HOLD: {report['problem'] or 'see the report'}")
    return 0 if report["held"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
