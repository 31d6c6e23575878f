"""Fixtures that several kinds of test share."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def published_data() -> Path:
    """The folder of published logs; tests that need it skip where it is absent."""
    folder = Path(os.environ.get("RECSYS_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"published logs not found at {folder}; set RECSYS_DATA to their folder")
    return folder
