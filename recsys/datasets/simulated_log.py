"""What happens in the simulation: requests, the slates that a logging policy shows, clicks, and what follows them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
from scipy.special import logsumexp

from recsys.datasets.simulated_truth import SECOND_US, Float64, Int32, Int64, Truth
from recsys.datasets.simulated_world import (
    DAY_US,
    Sessions,
    SimulationConfig,
)

_POPULARITY_HALF_LIFE_DAYS: Final = 7.0
_FRESHNESS_DAYS: Final = 5.0
_MILLISECOND_US: Final = 1_000
_TIE_BREAK: Final = 1e-9
_FIRST_CLICK_MS: Final = 2_000
_LAST_CLICK_MS: Final = 40_000


@dataclass(frozen=True)
class Requests:
    """Moments at which a slate is wanted, in order of time, int32 and int64 `(n_requests,)`."""

    user_idx: Int32
    at_us: Int64


@dataclass(frozen=True)
class Shown:
    """Items on slates, rows of a request together and in order of position, arrays `(n_rows,)`.

    request: int64 rows of `Requests`. propensity: float64, NaN where the slate was no random draw.
    relevance: float64, the probability of a click once looked at.
    """

    request: Int64
    item_idx: Int32
    position: Int32
    propensity: Float64
    relevance: Float64
    clicked: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class FollowUps:
    """Events on clicked items: `row` int64 of `Shown`, when, and for comments whether the reader is pleased."""

    event: str
    row: Int64
    at_us: Int64
    is_pleased: npt.NDArray[np.bool_]


def draw_requests(config: SimulationConfig, sessions: Sessions, rng: np.random.Generator) -> Requests:
    """Draw the requests of every session, minutes apart; those whose clicks may fall behind the end are left out."""
    n_requests = 1 + rng.poisson(config.requests_per_session - 1.0, len(sessions.user_idx))
    session = np.repeat(np.arange(len(n_requests)), n_requests)
    first = np.cumsum(n_requests) - n_requests
    gap_s = 60.0 + rng.exponential(150.0, len(session))
    gap_s[first] = 0.0
    elapsed = np.cumsum(gap_s)
    elapsed -= elapsed[first][session]
    at_us = sessions.start_us[session] + np.round(elapsed * 1000).astype(np.int64) * _MILLISECOND_US
    user = sessions.user_idx[session]
    order = np.lexsort((user, at_us))
    order = order[at_us[order] < config.end_us - _LAST_CLICK_MS * _MILLISECOND_US]
    return Requests(user[order], at_us[order])


def _waves(config: SimulationConfig, requests: Requests) -> Iterator[tuple[int, Int64]]:
    """Yield (day, rows): a day's first requests of all users together, then their second ones, and so on.

    The rows of a wave belong to different users, so none of them depends on another.
    """
    day = (requests.at_us - config.start_us) // DAY_US
    order = np.lexsort((requests.at_us, requests.user_idx, day))
    starts = np.flatnonzero(
        np.diff(day[order], prepend=-1).astype(bool) | np.diff(requests.user_idx[order], prepend=-1).astype(bool)
    )
    turn = np.empty(len(order), np.int64)
    turn[order] = np.arange(len(order)) - np.repeat(starts, np.diff(starts, append=len(order)))
    by_wave = np.lexsort((requests.user_idx, turn, day))
    changes = np.flatnonzero(np.diff(day[by_wave]).astype(bool) | np.diff(turn[by_wave]).astype(bool)) + 1
    for rows in np.split(by_wave, changes):
        if len(rows):
            yield int(day[rows[0]]), rows


def draw_slates(
    scores: Float64, slate_size: int, is_editorial: npt.NDArray[np.bool_], rng: np.random.Generator
) -> tuple[Int64, Float64]:
    """Return slates as columns of `scores` in order of position, int64 `(n, slate_size)`, and their propensities.

    A slate is a softmax draw without replacement: the propensity of a position, float64 `(n, slate_size)`, is the
    item's share of exp(score) among the items that the positions above have left. Editorial slates are the highest
    scores (ties fall at random), with propensity NaN. An item of score -inf is never shown: such places are -1.
    """
    # The trace of noise lets the seed break ties, which a partition would break by what the processor has.
    noisy = scores + rng.gumbel(size=scores.shape) * np.where(is_editorial, _TIE_BREAK, 1.0)[:, None]
    top = np.argpartition(-noisy, slate_size - 1, axis=1)[:, :slate_size]
    top = np.take_along_axis(top, np.argsort(-np.take_along_axis(noisy, top, axis=1), axis=1, kind="stable"), axis=1)
    chosen = np.take_along_axis(scores, top, axis=1)
    # Added up in logs and from the last place, so that a heavy item above leaves no rounding error behind.
    unchosen = scores.copy()
    np.put_along_axis(unchosen, top, -np.inf, axis=1)
    from_below = np.concatenate([logsumexp(unchosen, axis=1, keepdims=True), chosen[:, ::-1]], axis=1)
    left = np.logaddexp.accumulate(from_below, axis=1)[:, :0:-1]
    is_shown = np.isfinite(chosen)
    propensity = np.full(chosen.shape, np.nan)
    is_drawn = is_shown & ~is_editorial[:, None]
    propensity[is_drawn] = np.exp(chosen[is_drawn] - left[is_drawn])
    return np.where(is_shown, top, -1), propensity


@dataclass(frozen=True)
class Policy:
    """What chose the slates: recent clicks, freshness, and the match with what a user liked on the first day.

    interests: float64 `(n_users, n_subtopics)`, mixtures: float64 CSR `(n_items, n_subtopics)`, both of unit length.
    created_at_us: int64 `(n_items,)`.
    """

    interests: Float64
    mixtures: sp.csr_matrix
    created_at_us: Int64
    config: SimulationConfig

    @staticmethod
    def knowing(config: SimulationConfig, truth: Truth, created_at_us: Int64) -> "Policy":
        """Return the policy that knows the first interests of every user and the subjects of every item."""
        first_day = np.full(config.n_users, config.start_us - SECOND_US)
        interests = truth.interests(np.arange(config.n_users, dtype=np.int32), first_day).astype(np.float64)
        mixtures = truth.mixtures.astype(np.float64)
        return Policy(
            interests / np.linalg.norm(interests, axis=1, keepdims=True),
            # Sparse not for its size only: its product is the same to the bit on any number of threads.
            sp.csr_matrix(mixtures / np.linalg.norm(mixtures, axis=1, keepdims=True)),
            created_at_us,
            config,
        )

    def scores(
        self, user_idx: Int32, at_us: Int64, recent_clicks: Float64, is_editorial: npt.NDArray[np.bool_]
    ) -> Float64:
        """Return the score of every item at every request, float64 `(n, n_items)`; -inf where it does not exist yet."""
        age_days = (at_us[:, None] - self.created_at_us) / DAY_US
        freshness = np.exp(-np.maximum(age_days, 0.0) / _FRESHNESS_DAYS)
        scores = self.config.policy_popularity * np.log1p(recent_clicks) + self.config.policy_freshness * freshness
        weight = np.where(is_editorial, 0.0, self.config.policy_personalisation)
        scores += (self.mixtures @ (self.interests[user_idx] * weight[:, None]).T).T
        return np.where(age_days >= 0.0, scores, -np.inf)


def simulate_log(
    config: SimulationConfig, truth: Truth, created_at_us: Int64, requests: Requests, rng: np.random.Generator
) -> Shown:
    """Play all requests through: the policy shows what exists and was not clicked before, and people click.

    The policy counts clicks once a day, as of midnight.
    """
    policy = Policy.knowing(config, truth, created_at_us)
    seen: list[list[int]] = [[] for _ in range(config.n_users)]
    recent_clicks = np.zeros(config.n_items)
    clicks_of_day = np.zeros(config.n_items)
    today = 0
    waves: list[tuple[npt.NDArray[Any], ...]] = []
    for day, rows in _waves(config, requests):
        if day > today:
            recent_clicks = (recent_clicks + clicks_of_day) * 0.5 ** ((day - today) / _POPULARITY_HALF_LIFE_DAYS)
            clicks_of_day, today = np.zeros(config.n_items), day
        user, at_us = requests.user_idx[rows], requests.at_us[rows]
        is_editorial = rng.random(len(rows)) < config.editorial_share
        scores = policy.scores(user, at_us, recent_clicks, is_editorial)
        for i, u in enumerate(user.tolist()):
            scores[i, seen[u]] = -np.inf
        slates, propensity = draw_slates(scores, config.slate_size, is_editorial, rng)
        place, column = np.nonzero(slates >= 0)
        items = slates[place, column].astype(np.int32)
        relevance = truth.relevance(user[place], items, at_us[place])
        clicked = rng.random(len(items)) < truth.examination[column] * relevance
        for u, item in zip(user[place][clicked].tolist(), items[clicked].tolist(), strict=True):
            seen[u].append(item)
        np.add.at(clicks_of_day, items[clicked], 1.0)
        waves.append((rows[place], items, column.astype(np.int32) + 1, propensity[place, column], relevance, clicked))
    return _joined(waves)


def _joined(waves: list[tuple[npt.NDArray[Any], ...]]) -> Shown:
    """Return the columns of all waves, in the order of the fields of `Shown`, sorted by (request, position)."""
    dtypes = (np.int64, np.int32, np.int32, np.float64, np.float64, np.bool_)
    nothing = tuple(np.empty(0, dtype) for dtype in dtypes)
    columns = [np.concatenate(parts) for parts in zip(nothing, *waves, strict=True)]
    order = np.lexsort((columns[2], columns[0]))
    return Shown(*(column[order] for column in columns))


def draw_click_times(requests: Requests, shown: Shown, rng: np.random.Generator) -> tuple[Int64, Int64]:
    """Return the rows of `shown` that were clicked and when, int64; down the slate, at most 40 s after the request."""
    rows = np.flatnonzero(shown.clicked)
    share_of_slate = (shown.position[rows] + rng.uniform(0.0, 0.9, len(rows))) / (shown.position.max(initial=1) + 1)
    delay_ms = np.round(_FIRST_CLICK_MS + (_LAST_CLICK_MS - _FIRST_CLICK_MS) * share_of_slate).astype(np.int64)
    return rows, requests.at_us[shown.request[rows]] + delay_ms * _MILLISECOND_US


def draw_follow_ups(
    config: SimulationConfig, shown: Shown, click_rows: Int64, click_us: Int64, rng: np.random.Generator
) -> list[FollowUps]:
    """Draw likes, comments and purchases after clicks, minutes later; none at or after the end of the log."""
    relevance = shown.relevance[click_rows]
    ones = np.ones(len(click_rows))
    kinds = (
        ("like", config.like_share * relevance, 60.0),
        ("comment", config.comment_share * ones, 300.0),
        ("purchase", config.purchase_share * relevance, 900.0),
    )
    follow_ups = []
    for event, probability, mean_delay_s in kinds:
        delay_ms = np.round(1000 * (20.0 + rng.exponential(mean_delay_s, len(click_rows)))).astype(np.int64)
        at_us = click_us + delay_ms * _MILLISECOND_US
        happens = (rng.random(len(click_rows)) < probability) & (at_us < config.end_us)
        is_pleased = rng.random(len(click_rows)) < relevance
        follow_ups.append(FollowUps(event, click_rows[happens], at_us[happens], is_pleased[happens]))
    return follow_ups
