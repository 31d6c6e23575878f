"""The configuration of a training, read from YAML."""

import json
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, ValidationError

from recsys.config_base import Section
from recsys.config_networks import EncoderConfig, SequenceConfig
from recsys.config_sections import (
    ColdConfig,
    CollaborativeConfig,
    CovisitationConfig,
    DataConfig,
    EaseConfig,
    EvaluationConfig,
    FeatureConfig,
    NextItemConfig,
    RankerConfig,
    RetrievalConfig,
    SplitConfig,
    TrackingConfig,
)
from recsys.errors import ConfigError

__all__ = [
    "ColdConfig",
    "CollaborativeConfig",
    "Config",
    "CovisitationConfig",
    "DataConfig",
    "EaseConfig",
    "EncoderConfig",
    "EvaluationConfig",
    "FeatureConfig",
    "NextItemConfig",
    "RankerConfig",
    "RetrievalConfig",
    "SequenceConfig",
    "SplitConfig",
    "TrackingConfig",
]


class Config(Section):
    """A whole training."""

    seed: Annotated[int, Field(ge=0)] = Field(default=42, description="Seed of everything random.")
    data: DataConfig = Field(default_factory=DataConfig, description="Input.")
    split: SplitConfig = Field(default_factory=SplitConfig, description="Past, labels and test.")
    encoder: EncoderConfig = Field(default_factory=EncoderConfig, description="Text encoder.")
    collaborative: CollaborativeConfig = Field(default_factory=CollaborativeConfig, description="ALS.")
    covisitation: CovisitationConfig = Field(default_factory=CovisitationConfig, description="Transitions.")
    ease: EaseConfig = Field(default_factory=EaseConfig, description="Linear item model.")
    next_item: NextItemConfig = Field(default_factory=NextItemConfig, description="Linear transition model.")
    sequence: SequenceConfig = Field(default_factory=SequenceConfig, description="Sequence model.")
    cold: ColdConfig = Field(default_factory=ColdConfig, description="Cold items.")
    retrieval: RetrievalConfig = Field(default_factory=RetrievalConfig, description="Candidates.")
    features: FeatureConfig = Field(default_factory=FeatureConfig, description="Features.")
    ranker: RankerConfig = Field(default_factory=RankerConfig, description="Ranker.")
    evaluation: EvaluationConfig = Field(default_factory=EvaluationConfig, description="Measurement.")
    tracking: TrackingConfig = Field(default_factory=TrackingConfig, description="MLflow.")

    @classmethod
    def from_yaml(cls, path: Path) -> "Config":
        """Read a configuration file.

        Raises:
            ConfigError: the file is missing, is no YAML mapping, or a key or value is not allowed; the message
                names every offending key with its value.
        """
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ConfigError(f"no configuration file at {path}; name one of those in configs/") from None
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ConfigError(f"{path} cannot be read as YAML: {error}") from error
        if values is not None and not isinstance(values, dict):
            raise ConfigError(f"{path} holds a {type(values).__name__}; a configuration is a mapping of sections")
        return cls.from_values(values or {}, source=str(path))

    @classmethod
    def from_values(cls, values: dict[str, Any], source: str = "configuration") -> "Config":
        """Build a configuration from nested dicts; see `from_yaml` for the errors."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            lines = [
                f"  {'.'.join(str(part) for part in fault['loc'])}: {fault['msg']} (got {fault['input']!r})"
                for fault in error.errors()
            ]
            raise ConfigError(
                f"{source} has {len(lines)} fault(s):\n"
                + "\n".join(lines)
                + "\nSee docs/configuration.md for the keys."
            ) from None

    def with_overrides(self, overrides: dict[str, Any]) -> "Config":
        """Return a copy in which dotted keys, such as `encoder.epochs`, have new values.

        Raises:
            ConfigError: a key does not exist or its value is not allowed.
        """
        values = json.loads(self.model_dump_json())
        for dotted, value in overrides.items():
            *sections, leaf = dotted.split(".")
            place = values
            for section in sections:
                place = place.get(section) if isinstance(place, dict) else None
            if not isinstance(place, dict):
                raise ConfigError(f"no setting {dotted!r}; see docs/configuration.md for the keys")
            place[leaf] = value
        return Config.from_values(values, source="overrides")
