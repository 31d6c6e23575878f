"""What a user gets who installs the wheel: built from a copy of the tree, installed in an environment of its own."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {"recsys", "features", "training", "serving"}
SOURCES = (*sorted(PACKAGES), "configs", "pyproject.toml", "README.md", "constraints.txt")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("hatchling") is None, reason="hatchling is not installed; the extra [dev] brings it"),
]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built without network from a copy, so that the tree stays as it is."""
    folder = tmp_path_factory.mktemp("source")
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", "dist"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = (folder / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that holds the wheel, and its dependencies from here."""
    folder = tmp_path_factory.mktemp("installed") / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin" / "python"
    site = Path(
        subprocess.run(
            [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    )
    # Dependencies come from this environment. The tree itself must not: an editable install is a .pth file, and those
    # are only read in the environment's own folder.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--disable-pip-version-check", str(wheel)], check=True)
    return python


def run(command: list[str | Path], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_the_top_level_is_the_four_packages(wheel: Path) -> None:
    names = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}

    assert {name for name in names if not name.endswith(".dist-info")} == PACKAGES
    assert len(names) == len(PACKAGES) + 1


def test_every_module_of_the_tree_is_in_the_wheel(wheel: Path) -> None:
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".py")}
    here = {str(path.relative_to(ROOT).as_posix()) for package in PACKAGES for path in (ROOT / package).rglob("*.py")}

    assert packed == here


def test_presets_and_vocabulary_are_in_the_wheel(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())

    assert {f"recsys/presets/{path.name}" for path in (ROOT / "configs").iterdir()} <= names
    assert "recsys/datasets/vocabulary.yaml" in names


def test_the_wheel_carries_no_code_that_nobody_asked_for(wheel: Path) -> None:
    odd = [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith((".pyc", ".pkl", ".db", ".ipynb"))]

    assert not odd


def test_the_command_runs_from_another_folder(installed: Path, tmp_path: Path) -> None:
    done = run([installed.with_name("recsys"), "--help"], tmp_path)

    assert done.returncode == 0, done.stderr
    assert "validate" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_what_is_imported_is_the_wheel(installed: Path, tmp_path: Path) -> None:
    code = "import json, recsys, features, training, serving; print(json.dumps([recsys.__version__, recsys.__file__]))"
    done = run([installed, "-c", code], tmp_path)

    version, file = json.loads(done.stdout)
    assert version == tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert Path(file).is_relative_to(installed.parents[1])


def test_the_presets_are_found_in_the_installed_package(installed: Path, tmp_path: Path) -> None:
    code = "from recsys.preset_files import preset, presets_folder; print(presets_folder(), preset('demo').seed)"
    done = run([installed, "-c", code], tmp_path)

    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.split()[0]).name == "presets"


def test_the_installed_sample_validates(installed: Path, tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from recsys.datasets.simulated import SimulationConfig, simulate, write_sample; "
        "write_sample(Path('sample'), simulate(SimulationConfig(n_users=20, n_items=40, n_days=5), 1))"
    )
    assert run([installed, "-c", code], tmp_path).returncode == 0

    done = run([installed.with_name("recsys"), "validate", "sample"], tmp_path)

    assert done.returncode == 0, done.stderr
    assert "sample (format tables)" in done.stdout
