"""What the service loads, in a fresh interpreter."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {"torch", "transformers", "sentence_transformers", "implicit", "peft"}


def modules_after(statement: str) -> set[str]:
    code = f"{statement}\nimport json, sys; print(json.dumps(sorted(sys.modules)))"
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("statement", ["import serving", "import serving.app", "import recsys.api"])
def test_the_service_loads_no_training_library_and_no_mlflow(statement: str) -> None:
    loaded = modules_after(statement)

    assert {name for name in loaded if name.split(".")[0] in HEAVY | {"mlflow", "training"}} == set()


def test_the_engine_knows_no_http() -> None:
    assert {"fastapi", "starlette", "uvicorn"} & modules_after("import serving.engine, serving.loading") == set()


def test_the_check_sees_what_is_loaded() -> None:
    assert "fastapi" in modules_after("import serving.app")
