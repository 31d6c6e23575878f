"""What documents say can be typed can be typed, and every command explains itself."""

import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from recsys.cli import app
from recsys.preset_files import preset_names

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
COMMANDS = get_command(app).commands  # type: ignore[attr-defined]
DESIGNED = {
    "validate", "train", "evaluate", "compare", "promote", "rollback", "recommend", "export", "serve", "doctor", "demo",
    "tune", "keys",
}  # fmt: skip

# Blocks marked as text are what commands print.
_FENCE = re.compile(r"^```(?P<kind>.*?)$(?P<lines>.*?)^```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`((?:recsys|make) [^`]+)`")
_TYPED = re.compile(r"^(?:\$ )?(?:\S*=\S* )*(?:\.venv/bin/)?((?:recsys|make|python|python -m training\.train) .*)$")


def help_of(*command: str) -> str:
    result = CliRunner().invoke(app, [*command, "--help"])
    assert result.exit_code == 0, result.output
    return result.stdout


def typed_in(document: Path) -> list[str]:
    """Return the commands of a document: lines of its code blocks, and inline code that begins like one."""
    text = document.read_text(encoding="utf-8")
    blocks = [match["lines"] for match in _FENCE.finditer(text) if match["kind"] != "text"]
    lines = [line.strip() for block in blocks for line in block.splitlines()]
    found = [match[1] for line in lines if (match := _TYPED.match(line))]
    return found + _INLINE.findall(_FENCE.sub("", text))


def options_of(command: str, *words: str) -> set[str]:
    """Return the options of a command, or of the one of its own commands that `words` begin with."""
    found = COMMANDS[command]
    if words and words[0] in getattr(found, "commands", {}):
        found = found.commands[words[0]]
    return {option for parameter in found.params for option in parameter.opts} | {"--help", "-h"}


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def fault_of(command: str) -> str | None:
    """Return what is wrong with a command, None where it could be typed."""
    words = shlex.split(command, comments=True)
    if words[0] == "make":
        unknown = [word for word in words[1:] if "=" not in word and word not in make_targets()]
        return f"no target {unknown}" if unknown else None
    if words[0] == "python":
        scripts = [word for word in words[1:] if word.endswith(".py")]
        missing = [script for script in scripts if not (ROOT / script).is_file()]
        return f"no file {missing}" if missing else None
    name = next((word for word in words[1:] if not word.startswith("-")), None)
    if name is None:
        return None
    if name not in COMMANDS:
        return None if re.fullmatch(r"[A-Z|.…]+", name) else f"no command {name}"
    given = {word.split("=")[0] for word in words[2:] if re.match(r"--?[a-z]", word)}
    unknown = sorted(given - options_of(name, *words[2:]))
    return f"no option {unknown}" if unknown else None


def test_the_command_line_has_the_commands_of_the_design() -> None:
    assert set(COMMANDS) == DESIGNED


@pytest.mark.parametrize("name", sorted(DESIGNED))
def test_a_command_explains_itself_with_an_example_that_works(name: str) -> None:
    text = " ".join(help_of(name).split())
    example = re.search(rf"Example: (recsys {name}.*)$", text)

    assert example is not None, text
    assert fault_of(example[1]) is None
    assert len(text.split("Options:")[0].split()) > 8


@pytest.mark.parametrize("name", sorted(DESIGNED))
def test_every_option_has_its_sentence(name: str) -> None:
    silent = [parameter.name for parameter in COMMANDS[name].params if not getattr(parameter, "help", None)]

    assert not silent


@pytest.mark.parametrize("name", sorted(DESIGNED - {"serve", "demo", "keys"}))
def test_a_command_with_a_result_has_json(name: str) -> None:
    assert "--json" in options_of(name)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_document_names_commands_that_are_there(document: Path) -> None:
    faults = {command: fault for command in typed_in(document) if (fault := fault_of(command)) is not None}

    assert not faults


def test_make_help_shows_every_target() -> None:
    shown = re.findall(r"^\t@echo 'make ([a-z-]+) ", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)

    assert set(shown) == make_targets() - {"help"}


def test_the_service_is_measured_on_a_log_that_the_suites_use() -> None:
    (default,) = re.findall(r"^BENCH_SERVING \?= (.+)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)

    folder = re.fullmatch(r"--data \$\(or \$\(RECSYS_DATA\),\.\./shared/data\)/(.+)", default)

    assert folder is not None, default
    assert f'"{folder[1]}"' in (ROOT / "benchmarks" / "suites.py").read_text(encoding="utf-8")


def test_the_readme_shows_how_to_begin() -> None:
    commands = typed_in(ROOT / "README.md")

    assert any(command.startswith("make demo") for command in commands)
    assert any(command.startswith("recsys train --data") for command in commands)


@pytest.mark.parametrize(
    ("command", "fault"),
    [
        ("recsys frobnicate", "no command frobnicate"),
        ("recsys train --date data", "no option ['--date']"),
        ("make tea", "no target ['tea']"),
        ("python benchmarks/nothing.py --suite x", "no file ['benchmarks/nothing.py']"),
        ("recsys train --data data/sample --set encoder.epochs=1  # a comment", None),
        ("make demo PYTHON=python3.12", None),
        ("recsys COMMAND --help", None),
    ],
)
def test_the_check_of_documents_sees_what_is_wrong(command: str, fault: str | None) -> None:
    assert fault_of(command) == fault


def test_the_presets_are_told_in_the_reference() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")

    assert "configs/" in text
    assert "default" in preset_names()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_between_documents_lead_somewhere(document: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", _FENCE.sub("", document.read_text(encoding="utf-8")))
    broken = [target for target in targets if "://" not in target and not (document.parent / target).resolve().exists()]

    assert not broken
