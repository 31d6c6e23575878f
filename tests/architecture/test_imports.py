"""Who imports whom, and what an import loads."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("recsys", "features", "training", "serving")
HEAVY = {"torch", "transformers", "sentence_transformers", "implicit", "peft"}
# Formats that can run code when they are read.
UNSAFE = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}

MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def loaded_by(statement: str) -> set[str]:
    """Return the top-level packages that a fresh interpreter holds after a statement."""
    code = f"{statement}\nimport json, sys; print(json.dumps(sorted(name.split('.')[0] for name in sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def imports_of(path: Path) -> set[str]:
    """Return the top-level packages that a module imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


def test_the_import_contracts_hold() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True)

    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    "statement",
    [
        "import serving",
        "import serving.app",
        "import recsys",
        "import features",
        "import features.path",
        "import recsys.api",
        "import recsys.cli",
        "import recsys.pyfunc_model",
        "import recsys.registry",
        "from recsys import Recommender, load, load_dataset",
    ],
)
def test_no_import_outside_of_training_loads_a_heavy_library(statement: str) -> None:
    assert not loaded_by(statement) & HEAVY


def test_the_check_would_see_a_heavy_library() -> None:
    assert "torch" in loaded_by("import training.encoder")


@pytest.mark.parametrize("statement", ["import recsys", "import recsys.cli"])
def test_recsys_and_its_command_line_are_light(statement: str) -> None:
    """What makes `recsys --help` wait: none of it is needed before a command is known."""
    slow = {"numpy", "polars", "mlflow", "lightgbm", "fastapi", "pydantic", "sqlalchemy", "matplotlib", "onnxruntime"}

    assert not loaded_by(statement) & slow


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_read_or_written_in_a_format_that_runs_code(path: Path) -> None:
    assert not imports_of(path) & UNSAFE


def test_numpy_never_unpickles() -> None:
    calls = [
        (path, node)
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("np.load", "numpy.load")
    ]

    unguarded = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path, node in calls
        if not any(
            key.arg == "allow_pickle" and isinstance(key.value, ast.Constant) and key.value.value is False
            for key in node.keywords
        )
    ]
    assert calls
    assert not unguarded


def test_the_lazy_attributes_of_recsys_are_what_they_are_called() -> None:
    code = """
import recsys
from recsys.api import Recommender, load
from recsys.datasets import load_dataset
from training.train import train
for name, value in {"Recommender": Recommender, "load": load, "load_dataset": load_dataset, "train": train}.items():
    assert getattr(recsys, name) is value, name
assert set(recsys.__all__) <= set(dir(recsys))
try:
    recsys.nothing
except AttributeError as error:
    assert "has no attribute 'nothing'" in str(error)
else:
    raise SystemExit("no AttributeError")
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
