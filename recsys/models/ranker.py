"""The fitted LightGBM ranker."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import lightgbm as lgb
import numpy as np
import numpy.typing as npt

from recsys.errors import BundleError

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Ranker:
    """A booster and the names of the features it reads, in order."""

    booster: lgb.Booster
    feature_names: tuple[str, ...]

    def score(self, rows: Float32) -> Float32:
        """Return ranking scores, float32 `(n,)`, of feature rows `(n, n_features)`; higher is better."""
        if not len(rows):
            return np.empty(0, np.float32)
        # One thread: a request's few hundred rows are scored faster than threads are woken.
        return self.booster.predict(rows, num_threads=1).astype(np.float32)

    def gain(self) -> npt.NDArray[np.float64]:
        """Return the total gain of each feature, float64 `(n_features,)`."""
        return np.asarray(self.booster.feature_importance("gain"), np.float64)

    def save(self, path: Path) -> None:
        """Write the model in LightGBM's text format."""
        path.write_text(self.booster.model_to_string(num_iteration=self.booster.best_iteration), encoding="utf-8")

    @staticmethod
    def load(path: Path, feature_names: Sequence[str]) -> "Ranker":
        """Read a ranker and check that it was trained on the given features, in their order."""
        try:
            booster = lgb.Booster(model_str=path.read_text(encoding="utf-8"))
        except (OSError, lgb.basic.LightGBMError) as error:
            raise BundleError(f"{path.name} is no LightGBM model: {error}") from error
        if booster.feature_name() != list(feature_names):
            raise BundleError(
                f"{path.name} was trained on other features than this version computes: "
                f"{sorted(set(booster.feature_name()) ^ set(feature_names))[:3]}; train again"
            )
        return Ranker(booster, tuple(feature_names))
