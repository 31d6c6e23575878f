"""Where the service finds its model and its store, and what it listens on. The environment is read here alone."""

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
    cache: Path = Field(Path(".recsys/bundles"), description="Folder for bundles that are downloaded.")
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
