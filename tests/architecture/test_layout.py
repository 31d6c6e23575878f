"""Sizes and names of modules and functions."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("recsys", "features", "training", "serving", "benchmarks")
MODULES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
MAX_MODULE_LINES = 450
MAX_FUNCTION_LINES = 70
MEANINGLESS = {"utils", "util", "helpers", "helper", "common", "misc", "manager", "base"}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(path: Path) -> Iterator[Function]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, Function):
            yield node


def length(function: Function) -> int:
    """Return the lines of a function without its docstring."""
    lines = (function.end_lineno or function.lineno) - function.lineno + 1
    first = function.body[0]
    if ast.get_docstring(function) is not None:
        lines -= (first.end_lineno or first.lineno) - first.lineno + 1
    return lines


def ids(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", MODULES, ids=ids)
def test_a_module_is_read_in_one_sitting(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_MODULE_LINES


@pytest.mark.parametrize("path", MODULES, ids=ids)
def test_a_function_is_seen_on_one_screen(path: Path) -> None:
    long = {function.name: length(function) for function in functions(path) if length(function) > MAX_FUNCTION_LINES}

    assert not long


@pytest.mark.parametrize("path", MODULES, ids=ids)
def test_a_module_is_named_after_what_is_in_it(path: Path) -> None:
    assert path.stem not in MEANINGLESS


@pytest.mark.parametrize("path", MODULES, ids=ids)
def test_a_module_says_what_it_is_for(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))

    assert not tree.body or ast.get_docstring(tree)


@pytest.mark.parametrize("path", MODULES, ids=ids)
def test_inputs_are_not_checked_by_asserts(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))

    assert not [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Assert)]


def test_the_packages_lie_side_by_side() -> None:
    assert all((ROOT / package / "__init__.py").is_file() for package in ("recsys", "features", "training", "serving"))


def test_each_test_module_has_a_name_of_its_own() -> None:
    """pytest imports them all into one namespace."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]

    assert sorted(set(names)) == sorted(names)
