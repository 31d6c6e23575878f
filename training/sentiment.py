"""Fits the sentiment head: what the ratings that come with reviews say about their texts."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy.special import logit

from recsys.evaluation.classification import auc_interval, brier_scores, log_losses
from recsys.evaluation.intervals import Interval, bootstrap_mean, paired_difference
from recsys.models.sentiment import RatingScale, SentimentHead
from training.logistic import fit_logistic

# What there must be on either side of the scale's middle for a head to be learned at all.
MIN_REVIEWS: Final = 20
MIN_USERS: Final = 10

_N_FOLDS: Final = 5
_INNER_FOLDS: Final = 4
_REGULARIZATIONS: Final = (30.0, 10.0, 3.0, 1.0, 0.3, 0.1)
_N_BOOTSTRAP: Final = 500

Bool = npt.NDArray[np.bool_]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class RatedReviews:
    """Reviews to learn from. Arrays of one length `(n,)`.

    embeddings: float32 `(n, embedding_size)`, of the texts, none of them zero. rating: float64. user_idx: int32.
    encoder_fingerprint: of the encoder that made the embeddings.
    """

    embeddings: Float32
    rating: Float64
    user_idx: npt.NDArray[np.int32]
    encoder_fingerprint: str

    def __len__(self) -> int:
        return len(self.rating)


@dataclass(frozen=True)
class SentimentFit:
    """A head of all reviews, heads that each leave some users out, and how these did on the users they left out.

    fold_of_user: user row → which of `fold_heads` has not seen the user's reviews.
    inner_folds: for each of `fold_heads`, user row → which part of the users it has seen the user was in when its
    penalty was chosen.
    held_out: float64 `(n,)`, probability of a rating above the middle by the head that has not seen the user.
    base_rate: float64 `(n,)`, the share of such ratings among the reviews that this head has seen.
    """

    head: SentimentHead
    fold_heads: tuple[SentimentHead, ...]
    fold_of_user: dict[int, int]
    inner_folds: tuple[dict[int, int], ...]
    regularization: float
    held_out: Float64
    base_rate: Float64
    report: dict[str, Any]

    @property
    def beats_base_rate(self) -> bool:
        """Whether texts of users it has not seen lose less log loss than the base rate, by an interval without 0."""
        return bool(self.report["log_loss_difference"]["hi"] < 0.0)

    def score(self, embeddings: Float32, user_idx: npt.NDArray[np.int32]) -> Float32:
        """Return signals in [-1, 1], float32 `(n,)`, each by a head that has not seen the user's ratings."""
        scores = self.head.score(embeddings)
        fold = np.array([self.fold_of_user.get(int(user), -1) for user in user_idx])
        for number, head in enumerate(self.fold_heads):
            rows = fold == number
            scores[rows] = head.score(embeddings[rows])
        return scores


def can_learn(reviews: RatedReviews, scale: RatingScale) -> bool:
    """Return whether enough reviews of enough users lie on either side of the scale's middle."""
    above = scale.signal(reviews.rating) > 0
    return all(
        rows.sum() >= MIN_REVIEWS and len(np.unique(reviews.user_idx[rows])) >= MIN_USERS for rows in (above, ~above)
    )


def fit_sentiment(
    reviews: RatedReviews, scale: RatingScale, seed: np.random.SeedSequence, complaint_cost: float | None = None
) -> SentimentFit:
    """Return a logistic regression of "the rating lies above the middle" on the embeddings of the texts.

    Users, not reviews, are held out, since people repeat themselves: five heads each leave a fifth of the users out,
    and the strength of the L2 penalty is chosen inside each by the log loss on other held-out users. Users with
    complaints are spread evenly over the folds. Nothing is reweighted: under any imbalance of the ratings the
    probabilities stay those of the log.

    complaint_cost: see `SentimentHead`; None takes the root of the odds of a rating above the middle, at least 1.
    Where nearly all ratings are high, hardly any text makes a complaint the likelier case; taking half of the imbalance
    out of the odds finds more of them, and a text that says nothing still counts as liking.

    Raises:
        ValueError: too little to learn from; ask `can_learn` first.
    """
    if not can_learn(reviews, scale):
        raise ValueError(
            f"{len(reviews)} rated reviews are too few on one side of {scale}: at least {MIN_REVIEWS} reviews of "
            f"{MIN_USERS} users are needed on either side"
        )
    # Not spawned, which would change the caller's sequence.
    fold_seed, bootstrap_seed = (int(state) for state in seed.generate_state(2, np.uint64))
    x, user_idx = reviews.embeddings, reviews.user_idx
    y = scale.signal(reviews.rating) > 0
    cost = complaint_cost or max(1.0, float(np.sqrt(y.sum() / (~y).sum())))
    rng = np.random.default_rng(fold_seed)
    fold_of_user = _spread_users(user_idx, y, _N_FOLDS, rng)
    fold = np.array([fold_of_user[int(user)] for user in user_idx])

    def head_of(rows: Bool) -> tuple[SentimentHead, float, dict[int, int]]:
        inner_of_user = _spread_users(user_idx[rows], y[rows], _INNER_FOLDS, rng)
        inner = np.array([inner_of_user[int(user)] for user in user_idx[rows]])
        x_known, y_known = x[rows], y[rows]
        chosen = choose_regularization(
            (x_known[inner != number], y_known[inner != number], x_known[inner == number], y_known[inner == number])
            for number in range(_INNER_FOLDS)
        )
        parameters = fit_path(x_known, y_known, chosen)[-1]
        weights, bias = parameters[:-1].astype(np.float32), float(parameters[-1])
        return SentimentHead(weights, bias, scale, reviews.encoder_fingerprint, cost), chosen, inner_of_user

    heads, _, inner_folds = zip(*(head_of(fold != number) for number in range(_N_FOLDS)), strict=True)
    final, regularization, _ = head_of(np.ones(len(y), np.bool_))
    held_out, base_rate = np.empty(len(y)), np.empty(len(y))
    for number, head in enumerate(heads):
        rows = fold == number
        held_out[rows] = head.probability(x[rows])
        base_rate[rows] = y[~rows].mean()
    report = describe(y, held_out, base_rate, user_idx, np.random.default_rng(bootstrap_seed))
    report |= {"regularization": regularization, "n_folds": _N_FOLDS, "complaint_cost": cost}
    report |= called_complaints(y, held_out, cost)
    return SentimentFit(final, heads, fold_of_user, inner_folds, regularization, held_out, base_rate, report)


def describe(
    is_positive: Bool, probability: Float64, base_rate: Float64, user_idx: npt.NDArray[Any], rng: np.random.Generator
) -> dict[str, Any]:
    """Return AUC, log loss and Brier score on held-out reviews, with intervals over users, beside the base rate's.

    calibration_slope is 1 for probabilities of the right size, above 1 for timid ones.
    """
    seed = int(rng.integers(2**63))
    own, base = log_losses(is_positive, probability), log_losses(is_positive, base_rate)
    own_brier, base_brier = brier_scores(is_positive, probability), brier_scores(is_positive, base_rate)

    def mean(values: Float64) -> dict[str, float]:
        drawn = np.random.default_rng(seed)
        return _bounds(bootstrap_mean(values, clusters=user_idx, n_bootstrap=_N_BOOTSTRAP, rng=drawn))

    def difference(a: Float64, b: Float64) -> dict[str, float]:
        drawn = np.random.default_rng(seed)
        return _bounds(paired_difference(a, b, clusters=user_idx, n_bootstrap=_N_BOOTSTRAP, rng=drawn))

    logits = logit(np.clip(probability, 1e-6, 1 - 1e-6))[:, None]
    return {
        "n_reviews": len(is_positive),
        "n_users": len(np.unique(user_idx)),
        "n_complaints": int((~is_positive).sum()),
        "n_users_complaining": len(np.unique(user_idx[~is_positive])),
        "auc": _bounds(auc_interval(is_positive, probability, clusters=user_idx, n_bootstrap=_N_BOOTSTRAP, rng=rng)),
        "log_loss": mean(own),
        "log_loss_base_rate": mean(base),
        "log_loss_difference": difference(own, base),
        "brier": mean(own_brier),
        "brier_base_rate": mean(base_brier),
        "brier_difference": difference(own_brier, base_brier),
        "calibration_slope": float(fit_logistic(logits, is_positive, 0.0)[0]),
    }


def called_complaints(is_positive: Bool, probability: Float64, cost: float) -> dict[str, int]:
    """Return how many reviews are taken for complaints at a cost (see `SentimentHead`), and how many of them are."""
    called = probability < cost * (1.0 - probability)
    return {"called_complaints": int(called.sum()), "called_rightly": int((called & ~is_positive).sum())}


def choose_regularization(parts: Iterable[tuple[Any, Bool, Any, Bool]]) -> float:
    """Return the L2 penalty with the least log loss on what the parts hold out; the strongest of equals.

    parts: of each the features to fit on `(n, d)`, dense or CSR, with bool `(n,)` labels, and those held out.
    """
    losses = np.zeros(len(_REGULARIZATIONS))
    for x, y, x_held_out, y_held_out in parts:
        for place, parameters in enumerate(fit_path(x, y, _REGULARIZATIONS[-1])):
            logits = x_held_out.astype(np.float64) @ parameters[:-1] + parameters[-1]
            losses[place] += np.logaddexp(0.0, np.where(y_held_out, -logits, logits)).sum()
    return _REGULARIZATIONS[int(losses.argmin())]


def fit_path(x: Any, y: Bool, until: float) -> list[Float64]:
    """Return the parameters for each penalty from the strongest down to `until`, each begun at the one before.

    x: `(n, d)`, dense or CSR. Each is float64 `(d + 1,)`, see `fit_logistic`.
    """
    path: list[Float64] = []
    for regularization in _REGULARIZATIONS:
        path.append(fit_logistic(x, y, regularization, path[-1] if path else None))
        if regularization <= until:
            break
    return path


def _bounds(interval: Interval) -> dict[str, float]:
    return {"mean": interval.mean, "lo": interval.lo, "hi": interval.hi}


def _spread_users(user_idx: npt.NDArray[np.int32], y: Bool, n_folds: int, rng: np.random.Generator) -> dict[int, int]:
    """Return a fold for every user; those with a complaint, and the others, are dealt out in turn."""
    users, number = np.unique(user_idx, return_inverse=True)
    complains = np.bincount(number, weights=~y) > 0
    dealt = np.concatenate([rng.permutation(users[complains]), rng.permutation(users[~complains])])
    return {int(user): place % n_folds for place, user in enumerate(dealt)}
