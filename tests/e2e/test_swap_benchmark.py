"""What benchmarks/swap.py measures, on a small model: swaps under load fail no request."""

import json
from pathlib import Path

import pytest

from benchmarks.swap import main


@pytest.mark.slow
def test_lists_are_answered_while_versions_take_turns(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "swap.json"
    arguments = ["--bundle", str(tiny_bundle), "--workers", "1", "--rate", "10", "--seconds", "8", "--out", str(out)]

    assert main(arguments) == 0

    report = json.loads(out.read_text())
    assert "held" in capsys.readouterr().out
    assert len(report["swap_s"]) >= 1
    for part in ("before", "during"):
        assert (report[part]["failed"], report[part]["refused"]) == (0, 0)
        assert report[part]["answered"] == report[part]["requests"] > 0


def test_a_folder_that_is_no_bundle_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--bundle", str(tmp_path / "nothing")]) == 2
    assert "is no bundle" in capsys.readouterr().err
