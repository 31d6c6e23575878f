"""The fitted LightGBM ranker."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import lightgbm as lgb
import numpy as np
import numpy.typing as npt

from recsys.errors import BundleError
from recsys.models.trees import Trees

Float32 = npt.NDArray[np.float32]

_BETWEEN: Final = "\n\f\n"


@dataclass(frozen=True)
class Ranker:
    """Boosters whose scores are averaged, and the names of the features that they read, in order."""

    boosters: tuple[lgb.Booster, ...]
    feature_names: tuple[str, ...]

    def score(self, rows: Float32) -> Float32:
        """Return ranking scores, float32 `(n,)`, of feature rows `(n, n_features)`; higher is better."""
        if not len(rows):
            return np.empty(0, np.float32)
        # LightGBM in one thread: a request's few hundred rows are scored faster than threads are woken.
        total = np.zeros(len(rows))
        for booster, trees in zip(self.boosters, self._trees, strict=True):
            total += trees.score(rows) if trees is not None else booster.predict(rows, num_threads=1)
        return (total / len(self.boosters)).astype(np.float32)

    @cached_property
    def _trees(self) -> tuple[Trees | None, ...]:
        return tuple(Trees.of(booster) for booster in self.boosters)

    @property
    def n_trees(self) -> int:
        """Trees of all boosters together, up to where each stopped."""
        return sum(booster.best_iteration if booster.best_iteration > 0 else booster.num_trees()
                   for booster in self.boosters)  # fmt: skip

    def gain(self) -> npt.NDArray[np.float64]:
        """Return the total gain of each feature, float64 `(n_features,)`."""
        return np.sum([booster.feature_importance("gain") for booster in self.boosters], axis=0, dtype=np.float64)

    def save(self, path: Path) -> None:
        """Write the boosters in LightGBM's text format, one after the other behind form feeds."""
        texts = [booster.model_to_string(num_iteration=booster.best_iteration) for booster in self.boosters]
        path.write_text(_BETWEEN.join(texts), encoding="utf-8")

    @staticmethod
    def load(path: Path, feature_names: Sequence[str]) -> "Ranker":
        """Read a ranker and check that it was trained on the given features, in their order."""
        try:
            texts = path.read_text(encoding="utf-8").split(_BETWEEN)
            boosters = tuple(lgb.Booster(model_str=text) for text in texts)
        except (OSError, lgb.basic.LightGBMError) as error:
            raise BundleError(f"{path.name} is no LightGBM model: {error}") from error
        for booster in boosters:
            if booster.feature_name() != list(feature_names):
                raise BundleError(
                    f"{path.name} was trained on other features than this version computes: "
                    f"{sorted(set(booster.feature_name()) ^ set(feature_names))[:3]}; train again"
                )
        return Ranker(boosters, tuple(feature_names))
