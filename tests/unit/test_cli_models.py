"""`recsys promote` and `rollback`: what they say of the version that is champion now."""

import pytest
from typer.testing import CliRunner

from recsys.cli import app
from recsys.registry import ModelRef, Registry
from serving.settings import Settings

CHOSEN = ModelRef("recsys", "3", "champion", None, "models:/m-3", ("champion",))


@pytest.mark.parametrize("command", ["promote", "rollback"])
def test_running_servers_are_said_to_take_the_new_champion_by_themselves(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Registry, command, lambda *_: CHOSEN)

    result = CliRunner().invoke(app, [command, "--tracking-uri", "sqlite:///none.db"])

    assert result.exit_code == 0
    poll_s = Settings.model_fields["poll_s"].default
    assert result.stdout == (
        "recsys version 3 (champion) is the champion now; servers that follow this alias look for it every "
        f"RECSYS_POLL_S seconds ({poll_s:g} unless set)\n"
    )
