"""What the service serves, where it listens and what it allows. The environment is read here alone."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from recsys.errors import ConfigError

PREFIX: Final = "RECSYS_"


class Settings(BaseModel):
    """Settings of one server process. Every field is read from the variable `RECSYS_` + its name in capitals."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model_name: Annotated[str, Field(min_length=1)] = Field("recsys", description="Registered model to serve.")
    alias: Annotated[str, Field(min_length=1)] = Field(
        "champion", description="Alias, or version number, of the registered model to serve."
    )
    tracking_uri: str | None = Field(
        None, description="MLflow tracking URI; empty takes MLFLOW_TRACKING_URI, else sqlite:///mlflow.db."
    )
    bundle: Path | None = Field(None, description="Folder of a bundle to serve in place of a registered model.")
    cache: Path = Field(
        Path(".recsys/bundles"),
        description="Folder for bundles that are downloaded, and for what processes share of large ones.",
    )
    store_url: Annotated[str, Field(min_length=1)] = Field(
        "sqlite:///recsys.db", description="SQLAlchemy URL of the event store. It may hold a password: keep it private."
    )
    host: Annotated[str, Field(min_length=1)] = Field("127.0.0.1", description="Address to listen on.")
    port: Annotated[int, Field(ge=0, le=65_535)] = Field(8000, description="Port to listen on; 0 takes a free one.")
    max_body_bytes: Annotated[int, Field(ge=1_000)] = Field(
        5_000_000, description="Size of a request's body above which it is refused with 413."
    )
    max_user_events: Annotated[int, Field(ge=1)] = Field(
        1_000, description="Newest stored events of a user that a request reads."
    )
    max_users: Annotated[int, Field(ge=1)] = Field(
        10_000, description="Users whose stored events each process keeps in memory; others are read when they ask."
    )
    live_items: Annotated[int, Field(ge=0)] = Field(
        10_000, description="New items that a model takes in between two trainings; memory is set aside for them."
    )
    workers: Annotated[int, Field(ge=1, le=256)] = Field(1, description="Processes that answer on the same port.")
    threads: Annotated[int, Field(ge=1, le=64)] = Field(
        1, description="Lists that one process makes at the same time; more raise the slowest answers."
    )
    max_waiting: Annotated[int, Field(ge=0)] = Field(
        64, description="Requests that may wait for a thread of a process; more are refused with 503."
    )
    max_wait_ms: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        250.0, description="Longest wait of a list for a thread; then it is refused with 503."
    )
    max_write_wait_ms: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        5_000.0, description="The same for events."
    )
    body_timeout_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        10.0, description="Time within which a request's body must have come in."
    )
    keep_alive_s: Annotated[int, Field(ge=1)] = Field(
        5, description="How long an idle connection is kept open; longer than that of a proxy in front."
    )
    drain_delay_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        1.0, description="After SIGTERM: how long requests are still taken, while /health/ready says no."
    )
    drain_s: Annotated[int, Field(ge=1)] = Field(
        10, description="After that: how long begun requests may take to end before the process ends without them."
    )
    auth: Literal["auto", "on", "off"] = Field(
        "auto",
        description="Whether API keys are asked for: `auto` from everyone who does not call from this machine, "
        "`on` from all, `off` from nobody, which only a loopback host allows.",
    )
    key_cache_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        5.0, description="Time within which a new or revoked API key takes effect."
    )
    log_format: Literal["json", "plain"] = Field("json", description="Log lines as JSON objects, or for people.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="Least level that is logged.")
    log_secret: str = Field(
        "",
        repr=False,
        description="Secret that users' pseudonyms in the log are made with; left out, a new one at every start.",
    )

    poll_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        15.0, description="Seconds between two looks at which version the alias names; 0 for never."
    )
    budget_ms: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        50.0, description="Milliseconds that a recommendation may take; below the full answer less work is done for it."
    )
    fallback: Literal["on", "off"] = Field(
        "on", description="Whether popular items are answered while there is no model: on or off."
    )

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Self:
        """Read the settings; an unset or empty variable takes the default.

        Raises:
            ConfigError: a value is not allowed; the message names every such variable.
        """
        environ = os.environ if environ is None else environ
        values = {name: environ.get(f"{PREFIX}{name.upper()}", "").strip() for name in cls.model_fields}
        try:
            return cls.model_validate({name: value for name, value in values.items() if value})
        except ValidationError as error:
            lines = [
                f"  {PREFIX}{str(fault['loc'][0]).upper()}: {fault['msg']} (got {fault['input']!r})"
                for fault in error.errors()
            ]
            raise ConfigError(
                f"{len(lines)} setting(s) in the environment cannot be used:\n" + "\n".join(lines) + "\n"
                "Correct or unset them; docs/api.md lists every setting."
            ) from None

    def export(self) -> None:
        """Write the settings to the environment, for the processes that this one starts."""
        for name, value in self.model_dump().items():
            if value is None:
                os.environ.pop(f"{PREFIX}{name.upper()}", None)
            else:
                os.environ[f"{PREFIX}{name.upper()}"] = str(value)
