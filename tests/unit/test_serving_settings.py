"""Settings from the environment."""

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from recsys.errors import ConfigError
from serving.schemas import EventIn, RecommendationRequest, SimilarRequest
from serving.settings import Settings


def test_an_empty_environment_gives_the_defaults() -> None:
    settings = Settings.from_environment({"PATH": "/bin", "RECSYS_HOST": "", "RECSYS_BUNDLE": " "})

    assert settings == Settings()
    assert settings.store_url == "sqlite:///recsys.db"
    assert (settings.model_name, settings.alias, settings.bundle) == ("recsys", "champion", None)


def test_every_setting_is_read_from_its_variable() -> None:
    environ = {
        "RECSYS_MODEL_NAME": "news",
        "RECSYS_ALIAS": "challenger",
        "RECSYS_TRACKING_URI": "http://mlflow:5000",
        "RECSYS_BUNDLE": "some/folder",
        "RECSYS_CACHE": "elsewhere",
        "RECSYS_STORE_URL": "sqlite:///other.db",
        "RECSYS_HOST": "0.0.0.0",
        "RECSYS_PORT": "9000",
        "RECSYS_MAX_BODY_BYTES": "2000",
        "RECSYS_MAX_USER_EVENTS": "7",
        "RECSYS_MAX_USERS": "77",
        "RECSYS_LIVE_ITEMS": "5",
        "RECSYS_POLL_S": "2.5",
        "RECSYS_BUDGET_MS": "30.5",
        "RECSYS_FALLBACK": "off",
        "RECSYS_WORKERS": "3",
        "RECSYS_THREADS": "2",
        "RECSYS_MAX_WAITING": "9",
        "RECSYS_MAX_WAIT_MS": "12.5",
        "RECSYS_MAX_WRITE_WAIT_MS": "99.5",
        "RECSYS_BODY_TIMEOUT_S": "1.5",
        "RECSYS_KEEP_ALIVE_S": "75",
        "RECSYS_DRAIN_DELAY_S": "2.5",
        "RECSYS_DRAIN_S": "20",
        "RECSYS_AUTH": "on",
        "RECSYS_KEY_CACHE_S": "0.5",
        "RECSYS_LOG_FORMAT": "plain",
        "RECSYS_LOG_LEVEL": "DEBUG",
        "RECSYS_LOG_SECRET": "hush",
    }

    settings = Settings.from_environment(environ)

    assert set(environ) == {f"RECSYS_{name.upper()}" for name in Settings.model_fields}
    assert {name: str(getattr(settings, name)) for name in Settings.model_fields} == {
        variable.removeprefix("RECSYS_").lower(): value for variable, value in environ.items()
    }
    assert isinstance(settings.bundle, Path)


def test_every_setting_says_what_it_is() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_values_that_cannot_be_used_are_all_named() -> None:
    with pytest.raises(ConfigError, match=r"2 setting\(s\)") as caught:
        Settings.from_environment({"RECSYS_PORT": "eighty", "RECSYS_MAX_USER_EVENTS": "0", "RECSYS_HOST": "h"})

    assert "RECSYS_PORT: Input should be a valid integer" in str(caught.value)
    assert "(got 'eighty')" in str(caught.value)
    assert "RECSYS_MAX_USER_EVENTS: Input should be greater than or equal to 1" in str(caught.value)
    assert "RECSYS_HOST" not in str(caught.value)


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().port = 1


DOCUMENT = (Path(__file__).resolve().parents[2] / "docs" / "api.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_documented_with_its_default(name: str) -> None:
    default = Settings.model_fields[name].default
    shown = "" if default is None else f"`{default}` "

    assert f"| `RECSYS_{name.upper()}` | {shown}| " in DOCUMENT


def test_every_code_of_a_refusal_is_documented() -> None:
    serving = Path(__file__).resolve().parents[2] / "serving"
    source = "".join(
        (serving / name).read_text(encoding="utf-8")
        for name in ("access.py", "protocol.py", "refusals.py", "strict.py")
    )
    codes = set(re.findall(r'\d{3},\s+"([a-z_]+)"|\d{3}: "([a-z_]+)"', source))
    named = {first or second for first, second in codes}

    assert {"invalid_json", "not_found", "event_conflict", "internal", "store_unavailable"} <= named
    assert {code for code in named if f"`{code}`" not in DOCUMENT} == set()


def test_every_field_of_a_request_is_documented() -> None:
    for body in (RecommendationRequest, SimilarRequest, EventIn):
        for name in body.model_fields:
            assert f"`{name}`" in DOCUMENT or f'"{name}"' in DOCUMENT, name
