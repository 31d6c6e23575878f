"""Makes the ranker's rows from past requests and trains LightGBM on them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import lightgbm as lgb
import numpy as np
import numpy.typing as npt

from features.path import RankingPath
from recsys.config import RankerConfig
from recsys.errors import DataError
from recsys.models.ranker import Ranker
from recsys.retrieval.asked import Asked
from training.requests import LabelledRequest
from training.side_by_side import in_blocks

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int32 = npt.NDArray[np.int32]

_N_BINARY: Final = 2
_MAX_GRADES: Final = 30  # LightGBM takes 31 with the grade of what was not wanted


@dataclass(frozen=True)
class RankerRows:
    """Training rows, requests one after the other.

    features: float32 `(n_rows, n_features)`. label: float32 `(n_rows,)`, 0 for what was not wanted, 1 for what was, or
    what that was worth where labels are graded. group: int32 `(n_requests,)`, rows per request. position: int32
    `(n_rows,)`, 1-based position on the screen, None unless every row has one.
    """

    features: Float32
    label: Float32
    group: Int32
    position: Int32 | None
    feature_names: tuple[str, ...]

    def save(self, path: Path) -> None:
        """Write the rows as an npz file."""
        position = self.position if self.position is not None else np.empty(0, np.int32)
        np.savez(
            path, allow_pickle=False, features=self.features, label=self.label, group=self.group, position=position,
            feature_names=np.array(self.feature_names),
        )  # fmt: skip

    @staticmethod
    def load(path: Path) -> "RankerRows":
        """Read rows that `save` wrote."""
        with np.load(path, allow_pickle=False) as file:
            position = file["position"] if len(file["position"]) else None
            names = tuple(str(name) for name in file["feature_names"])
            return RankerRows(file["features"], file["label"], file["group"], position, names)

    def only(self, names: Sequence[str]) -> "RankerRows":
        """Return the same rows with some of their columns, in the order of `names`."""
        places = [self.feature_names.index(name) for name in names]
        return replace(self, features=np.ascontiguousarray(self.features[:, places]), feature_names=tuple(names))

    @staticmethod
    def join(parts: Sequence["RankerRows"]) -> "RankerRows":
        """Return the rows of all parts, which have the same columns; positions only where every part has them."""
        positions = [part.position for part in parts if part.position is not None]
        return RankerRows(
            np.concatenate([part.features for part in parts]),
            np.concatenate([part.label for part in parts]),
            np.concatenate([part.group for part in parts]),
            np.concatenate(positions) if len(positions) == len(parts) else None,
            parts[0].feature_names,
        )


@dataclass(frozen=True)
class RankerFit:
    """A trained ranker, its validation curve per metric, and how many trees it kept."""

    ranker: Ranker
    curve: dict[str, list[float]] = field(default_factory=dict)
    n_trees: int = 0


def build_rows(
    path: RankingPath,
    requests: Iterable[LabelledRequest],
    config: RankerConfig,
    rng: np.random.Generator,
    on_progress: Callable[[int], None] | None = None,
    *,
    why_none: Callable[[int], str],
) -> RankerRows:
    """Return the rows of all requests whose relevant items are among the candidates.

    Features are computed on all candidates of a request, as in serving. Of a shown list every row is kept; else
    the relevant rows and `negatives_per_request` others, drawn at random.

    why_none: says what is wrong, given how many requests there were, where none of them gives a row; see
    `training.no_rows`.

    Raises:
        DataError: there is no row; the message is that of `why_none`.
    """
    seed = int(rng.integers(2**63))
    blocks = in_blocks(
        requests,
        lambda number, block: _rows_of_block(path, block, config, np.random.default_rng([seed, number])),
        on_progress=on_progress,
    )
    parts = [block.rows for block in blocks if block.rows is not None]
    if not parts:
        raise DataError(why_none(sum(block.n_requests for block in blocks)))
    return RankerRows.join(parts)


@dataclass(frozen=True)
class _BlockRows:
    """The rows of some requests, None where there are none."""

    rows: RankerRows | None
    n_requests: int


def _rows_of_block(
    path: RankingPath, requests: Sequence[LabelledRequest], config: RankerConfig, rng: np.random.Generator
) -> _BlockRows:
    rows: list[Float32] = []
    labels: list[Float32] = []
    positions: list[Int32] = []
    for labelled in requests:
        asked = Asked.of(path.models, labelled.request)
        found = path.candidates(asked, exclude=labelled.exclude)
        label = labels_of(found.item_idx, labelled, graded=config.graded)
        if label.any():
            keep = _kept_rows(label, labelled, config.negatives_per_request, rng)
            rows.append(path.rows(asked, found.item_idx)[keep])
            labels.append(label[keep])
            if labelled.positions is not None and len(labelled.positions) == len(keep):
                positions.append(labelled.positions[keep])
    if not rows:
        return _BlockRows(None, len(requests))
    position = np.concatenate(positions) if len(positions) == len(rows) else None
    made = RankerRows(
        np.concatenate(rows),
        np.concatenate(labels),
        np.array([len(one) for one in labels], np.int32),
        position if position is not None and (position > 0).all() else None,
        path.feature_names,
    )
    return _BlockRows(made, len(requests))


def labels_of(item_idx: Int32, labelled: LabelledRequest, *, graded: bool) -> Float32:
    """Return the label of each item, float32 `(len(item_idx),)`: 0, and for what was wanted 1 or, graded, its worth."""
    relevant = labelled.relevant_idx
    label = np.isin(item_idx, relevant).astype(np.float32)
    if graded and labelled.worth is not None:
        order = np.argsort(relevant)
        hit = label > 0
        label[hit] = labelled.worth[order[np.searchsorted(relevant, item_idx[hit], sorter=order)]]
    return label


def _kept_rows(
    label: Float32, labelled: LabelledRequest, n_negatives: int, rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    negatives = np.flatnonzero(label == 0)
    if labelled.positions is not None or len(negatives) <= n_negatives:
        return np.arange(len(label))
    # Drawn alike from all: to keep the best retrieved on purpose would make every other candidate look more often
    # relevant than it is.
    drawn = rng.choice(negatives, n_negatives, replace=False)
    return np.sort(np.concatenate([np.flatnonzero(label > 0), drawn]))


def train_ranker(
    train: RankerRows,
    valid: RankerRows,
    config: RankerConfig,
    seed: np.random.SeedSequence,
    on_progress: Callable[[int, int], None] | None = None,
) -> RankerFit:
    """Return a ranker of `config.n_seeds` boosters, each stopped early on later requests.

    The position bias of shown lists is estimated by LightGBM itself (its unbiased LambdaMART, `position` in the data
    set), where every training row has a position. The curve is that of the first booster.

    Labels other than 0 and 1 are what an item was worth. lambdarank takes grades with a gain each: the gain here is the
    worth itself, where LightGBM's own default is 2^grade - 1, so that a purchase counts as much as its weight says.
    """
    use_position = train.position is not None and config.objective == "lambdarank"
    gains = gains_of(train.label, valid.label)
    train_set = lgb.Dataset(
        train.features,
        _grades(train.label, gains),
        group=train.group,
        position=train.position if use_position else None,
        feature_name=list(train.feature_names),
        free_raw_data=False,
    )
    valid_set = lgb.Dataset(
        valid.features, _grades(valid.label, gains), group=valid.group, reference=train_set, free_raw_data=False
    )
    boosters: list[lgb.Booster] = []
    first_curve: dict[str, list[float]] = {}
    n_rounds = config.n_trees * config.n_seeds
    for number, state in enumerate(seed.generate_state(config.n_seeds)):
        curve: dict[str, dict[str, list[float]]] = {}
        callbacks: list[Callable[..., None]] = [
            lgb.early_stopping(config.early_stopping, first_metric_only=True, verbose=False),
            lgb.record_evaluation(curve),
        ]
        if on_progress is not None:
            callbacks.append(_progress(on_progress, number * config.n_trees, n_rounds))
        parameters = _parameters(config, len(train.label), int(state % 2**31), gains)
        boosters.append(
            lgb.train(
                parameters,
                train_set,
                num_boost_round=config.n_trees,
                valid_sets=[valid_set],
                valid_names=["valid"],
                callbacks=callbacks,
            )
        )
        first_curve = first_curve or dict(curve.get("valid", {}))
    ranker = Ranker(tuple(boosters), train.feature_names)
    return RankerFit(ranker, first_curve, ranker.n_trees)


def gains_of(*labels: Float32) -> Float64:
    """Return the gain of each grade, float64, rising from 0 for what was not wanted; at most `_MAX_GRADES` above it.

    Where there are more different labels, as where texts of reviews scale them, they are put into as many grades by
    their quantiles, and a grade's gain is the mean of its labels.
    """
    wanted = np.concatenate(labels).astype(np.float64)
    wanted = wanted[wanted > 0]
    gains = np.unique(wanted)
    if len(gains) > _MAX_GRADES:
        edges = np.unique(np.quantile(wanted, np.linspace(0.0, 1.0, _MAX_GRADES + 1)[1:-1]))
        grade = np.searchsorted(edges, wanted, side="right")
        total, n = np.bincount(grade, weights=wanted), np.bincount(grade)
        gains = total[n > 0] / n[n > 0]
    return np.concatenate([[0.0], gains])


def _grades(label: Float32, gains: Float64) -> Float32:
    """Return the grade whose gain is nearest to each label, float32; 0 for what was not wanted alone."""
    middles = (gains[1:-1] + gains[2:]) / 2.0
    grade = 1 + np.searchsorted(middles, label, side="right")
    return np.where(label > 0, grade, 0).astype(np.float32)


def _progress(
    report: Callable[[int, int], None], n_before: int, n_rounds: int
) -> Callable[[lgb.callback.CallbackEnv], None]:
    return lambda env: report(n_before + env.iteration + 1, n_rounds)


def _parameters(config: RankerConfig, n_rows: int, seed: int, gains: Float64) -> dict[str, Any]:
    graded = {"label_gain": gains.tolist()} if len(gains) > _N_BINARY else {}
    return graded | {
        "objective": config.objective,
        "metric": "ndcg" if config.objective == "lambdarank" else "auc",
        "eval_at": [10],
        "learning_rate": config.learning_rate,
        "num_leaves": config.num_leaves,
        "min_data_in_leaf": min(config.min_data_in_leaf, max(1, n_rows // 50)),
        "feature_fraction": config.feature_fraction,
        "bagging_fraction": config.bagging_fraction,
        "bagging_freq": 1,
        "lambda_l2": config.lambda_l2,
        "lambdarank_truncation_level": config.truncation,
        "lambdarank_position_bias_regularization": config.position_bias,
        "seed": seed,
        "deterministic": True,
        "force_row_wise": True,
        "verbosity": -1,
    }
