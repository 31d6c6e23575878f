from typing import Any

from benchmarks.serving import GOALS, verdicts, why_missed


def _report(latency_ms: float) -> dict[str, Any]:
    report: dict[str, Any] = {
        "rerank": {"p99_ms": latency_ms},
        "full": {"p50_ms": latency_ms, "p99_ms": latency_ms},
        "capacity": {"per_second": 400.0},
        "bare_ranker": {"cpu_ratio": 1.5, "cpu_ms_per_request": 1.5},
        "lists_alone": {
            "cpu_ms_per_request": 6.0,
            "generator_cpu_ms_per_request": 0.5,
            "stage_ms": {"request": 9.0, "queue": 1.0, "features": 3.0, "retrieval": 2.0, "response": 0.01},
        },
    }
    return report | {"goals": verdicts(report)}


def test_a_report_without_a_miss_explains_nothing() -> None:
    report = _report(latency_ms=5.0)

    assert [line["met"] for line in report["goals"]] == [True] * len(GOALS)
    assert why_missed(report) == []


def test_a_miss_is_explained_by_where_the_time_goes() -> None:
    report = _report(latency_ms=40.0)
    text = "\n".join(why_missed(report))

    assert [line["ratio"] for line in report["goals"] if not line["met"]] == [4.0, 5.0, 2.0]
    assert "of a list's 6 ms of CPU the bare ranker would take 1.5; 4.5 go into" in text
    assert "9 ms: features 3 · retrieval 2 · queue 1 · between stages 2.99" in text
