"""The report of a suite: comparison of systems, JSON and back, the table, the picture, and every error."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread

from recsys.evaluation.intervals import Interval
from recsys.evaluation.metrics import EvaluationError, PerRequestMetrics
from recsys.evaluation.report import SuiteReport, compare_systems

NAN = math.nan


def make_report(**changes: Any) -> SuiteReport:
    values: dict[str, Any] = {
        "suite": "toy-suite",
        "split": "test",
        "seed": 7,
        "systems": {
            "popular": {"ndcg@10": Interval(0.1, 0.08, 0.12, 0), "auc": Interval(0.5, NAN, NAN, 0)},
            "full": {"ndcg@10": Interval(0.25, 0.2, 0.3, 0)},
        },
        "differences": {"popular": {"ndcg@10": Interval(0.15, 0.1, 0.2, 0)}},
        "slices": {"full": {"user=warm": {"ndcg@10": Interval(0.3, 0.2, 0.4, 55)}}},
        "seconds": 1.5,
        "peak_rss_mb": 812.0,
        "environment": {"cpu": "two cores", "threads": 2},
    }
    return SuiteReport(**(values | changes))


def results_of(**means: float) -> dict[str, PerRequestMetrics]:
    """Three requests of each of twenty users; a system's values lie around its mean, on hard and easy requests."""
    rng = np.random.default_rng(3)
    hard = rng.normal(scale=0.05, size=60)
    results = {}
    for name, mean in means.items():
        results[name] = PerRequestMetrics()
        values = mean + hard + rng.normal(scale=0.01, size=60)
        results[name].add_batch(
            [f"u{i % 20}" for i in range(60)], {"ndcg@10": values, "auc": np.where(hard > 0, values, NAN)}
        )
    return results


def test_the_json_has_exactly_the_published_form(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "report.json"

    make_report(slices={"full": {"user=cold": {"auc": Interval(NAN, NAN, NAN, 12)}, "user=warm": {}}}).write_json(path)

    assert json.loads(path.read_text(encoding="utf-8")) == {
        "suite": "toy-suite",
        "split": "test",
        "seed": 7,
        "systems": {
            "popular": {
                "ndcg@10": {"mean": 0.1, "lo": 0.08, "hi": 0.12},
                "auc": {"mean": 0.5, "lo": None, "hi": None},
            },
            "full": {"ndcg@10": {"mean": 0.25, "lo": 0.2, "hi": 0.3}},
        },
        "differences": {"popular": {"ndcg@10": {"mean": 0.15, "lo": 0.1, "hi": 0.2}}},
        "slices": {"full": {"user=cold": {"auc": {"n": 12}}, "user=warm": {}}},
        "seconds": 1.5,
        "peak_rss_mb": 812.0,
        "environment": {"cpu": "two cores", "threads": 2},
    }
    assert list(path.parent.iterdir()) == [path]


def test_a_report_comes_back_from_its_file(tmp_path: Path) -> None:
    report = make_report()
    path = tmp_path / "report.json"
    report.write_json(path)

    again = SuiteReport.read_json(path)

    assert again.slices == report.slices
    assert again.differences == report.differences
    assert again.systems["full"] == report.systems["full"]
    assert math.isnan(again.systems["popular"]["auc"].lo)
    assert again.to_dict() == report.to_dict()


def test_numpy_numbers_and_other_scripts_are_written(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    systems = {"full": {"mrr": Interval(np.float64(0.5), np.float32(0.25), np.float64(0.75), 3)}}  # type: ignore[arg-type]

    make_report(systems=systems, environment={"data": "新闻"}).write_json(path)

    assert SuiteReport.read_json(path).systems == {"full": {"mrr": Interval(0.5, 0.25, 0.75, 0)}}
    assert "新闻" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("value", [{1, 2}, math.inf, Path("x")])
def test_what_json_cannot_hold_is_refused_and_the_old_file_stays(tmp_path: Path, value: object) -> None:
    path = tmp_path / "report.json"
    make_report().write_json(path)
    before = path.read_bytes()

    with pytest.raises(EvaluationError, match="the report of toy-suite cannot be written as JSON"):
        make_report(environment={"bad": value}).write_json(path)

    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"suite": "x"', "cannot be read as JSON"),
        (b"\xff\xfe\x00", "cannot be read as JSON"),
        (b"[1, 2]", r"is no report: 9 keys are missing, \['suite', 'split', 'seed'\]"),
        (b'{"suite": "x", "split": "t", "seed": 1}', r"is no report: 6 keys are missing, \['systems', 'differences'"),
    ],
)
def test_a_file_that_is_no_report_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "report.json"
    path.write_bytes(content)

    with pytest.raises(EvaluationError, match=message):
        SuiteReport.read_json(path)


@pytest.mark.parametrize("interval", [{"mean": 0.1}, {"mean": "x", "lo": 0, "hi": 1}, 0.3, [0.1, 0.2]])
def test_an_interval_that_is_none_is_refused(tmp_path: Path, interval: object) -> None:
    path = tmp_path / "report.json"
    path.write_text(json.dumps(make_report().to_dict() | {"systems": {"full": {"mrr": interval}}}), encoding="utf-8")

    with pytest.raises(EvaluationError, match="has an interval that is none"):
        SuiteReport.read_json(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"no report at .*absent\.json; write it again"):
        SuiteReport.read_json(tmp_path / "absent.json")


def test_the_table_has_a_row_per_system_with_full_in_bold() -> None:
    assert make_report().to_markdown_table() == (
        "| system | ndcg@10 | auc |\n"
        "|---|---|---|\n"
        "| popular | 0.100 [0.080, 0.120] | 0.500 |\n"
        "| **full** | **0.250 [0.200, 0.300]** | **–** |\n"
    )


def test_the_table_shows_the_chosen_metrics_and_escapes_bars() -> None:
    systems = {"a|b": {"mrr": Interval(0.5, 0.4, 0.6, 9), "auc": Interval(0.7, 0.6, 0.8, 9)}}

    table = make_report(systems=systems).to_markdown_table(["auc"])

    assert table == "| system | auc |\n|---|---|\n| a\\|b | 0.700 [0.600, 0.800] |\n"


def test_unknown_metrics_and_empty_reports_have_no_table_and_no_picture(tmp_path: Path) -> None:
    with pytest.raises(
        EvaluationError, match=r"1 metrics are in no system, \['mrr'\]; the report has \['ndcg@10', 'auc'\]"
    ):
        make_report().to_markdown_table(["auc", "mrr"])
    with pytest.raises(EvaluationError, match="the report of toy-suite holds no metric"):
        make_report(systems={}).plot(tmp_path / "empty.png")

    assert not (tmp_path / "empty.png").exists()


def bar_lengths(path: Path, colour: tuple[int, int, int]) -> int:
    """Return the widest run of a colour in a picture, in pixels."""
    pixels = np.round(imread(path)[:, :, :3] * 255).astype(int)
    return int((np.abs(pixels - colour).sum(axis=2) <= 6).sum(axis=1).max())


def test_the_picture_shows_longer_bars_for_better_systems_and_highlights_full(tmp_path: Path) -> None:
    path = tmp_path / "plots" / "bars.png"
    systems = {
        "popular": {"ndcg@10": Interval(0.1, 0.1, 0.1, 9)},
        "full": {"ndcg@10": Interval(0.3, 0.3, 0.3, 9)},
    }

    make_report(systems=systems).plot(path, ["ndcg@10"])

    highlighted, plain = bar_lengths(path, (0xC2, 0x41, 0x0C)), bar_lengths(path, (0x94, 0xA3, 0xB8))
    assert plain > 20
    assert highlighted / plain == pytest.approx(3.0, rel=0.1)


def test_missing_values_and_odd_names_are_drawn(tmp_path: Path) -> None:
    systems = {f"$system_{i}": {f"m{j}": Interval(0.1 * j, NAN, NAN, 1) for j in range(i + 1)} for i in range(6)}

    make_report(systems=systems, suite="cost in $ and $x").plot(tmp_path / "many.png")

    assert imread(tmp_path / "many.png").shape[1] > 800


def test_plotting_loads_no_pyplot(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from recsys.evaluation.intervals import Interval; "
        "from recsys.evaluation.report import SuiteReport; "
        "SuiteReport('s', 't', 1, {'full': {'mrr': Interval(.5, .4, .6, 9)}}).plot(Path(sys.argv[1])); "
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )

    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "p.png")], check=False, capture_output=True, text=True
    )

    assert done.returncode == 0, done.stderr
    assert (tmp_path / "p.png").stat().st_size > 0


def test_systems_are_compared_on_the_same_requests() -> None:
    systems, differences = compare_systems(results_of(popular=0.1, full=0.3, als=0.3), rng=np.random.default_rng(1))

    assert list(systems) == ["popular", "full", "als"]
    assert list(differences) == ["popular", "als"]
    assert differences["popular"]["ndcg@10"].mean == pytest.approx(
        systems["full"]["ndcg@10"].mean - systems["popular"]["ndcg@10"].mean
    )
    assert differences["popular"]["ndcg@10"].excludes_zero
    assert differences["popular"]["ndcg@10"].lo > 0
    assert not differences["als"]["ndcg@10"].excludes_zero
    assert systems["full"]["auc"].n == differences["als"]["auc"].n < 60 == systems["full"]["ndcg@10"].n


def test_one_more_system_leaves_the_bounds_of_the_others() -> None:
    results = results_of(full=0.3, als=0.2, popular=0.1)
    few = compare_systems({name: results[name] for name in ("full", "als")}, rng=np.random.default_rng(1))
    more = compare_systems({name: results[name] for name in ("popular", "full", "als")}, rng=np.random.default_rng(1))

    assert more[0]["als"] == few[0]["als"]
    assert more[1]["als"] == few[1]["als"]


def test_intervals_are_resampled_over_users() -> None:
    results = PerRequestMetrics()
    results.add_batch(["a"] * 30 + ["b"] * 30, {"mrr": [0.0] * 30 + [1.0] * 30})

    interval = compare_systems({"full": results}, rng=np.random.default_rng(2))[0]["full"]["mrr"]

    assert (interval.lo, interval.hi) == (0.0, 1.0)  # two users are all there is to draw from


def test_without_a_full_system_there_are_no_differences() -> None:
    assert compare_systems(results_of(als=0.3, popular=0.1), rng=np.random.default_rng(1))[1] == {}


def test_systems_measured_on_other_requests_are_refused() -> None:
    results = results_of(als=0.3, full=0.4)
    results["full"].add("u99", {"ndcg@10": 0.5, "auc": 0.5})

    with pytest.raises(EvaluationError, match="full has 61 requests that are not the 60 of als"):
        compare_systems(results, rng=np.random.default_rng(1))
    with pytest.raises(EvaluationError, match="als has no requests; check that the test window"):
        compare_systems({"als": PerRequestMetrics()}, rng=np.random.default_rng(1))
    with pytest.raises(EvaluationError, match="there are no systems to compare"):
        compare_systems({}, rng=np.random.default_rng(1))
