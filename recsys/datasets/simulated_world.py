"""The simulated world before anything happens: its settings, the items, the visits, and the changing interests."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Final, Self

import numpy as np
import numpy.typing as npt
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator
from scipy.special import softmax

from recsys.datasets.simulated_text import NO_SUBTOPIC
from recsys.datasets.simulated_truth import SECOND_US, Float32, Float64, Int32, Int64

Share = Annotated[float, Field(ge=0.0, le=1.0)]
NotNegative = Annotated[float, Field(ge=0.0)]

DAY_US: Final = 86_400 * SECOND_US
_BACK_CATALOGUE_DAYS: Final = 180
_NEVER_US: Final = np.iinfo(np.int64).max
# Log-scale interest in a user's first, second and third topic, and what the favourite subtopic of each has on top.
_TOPIC_PULLS: Final = (3.5, 2.8, 1.8)
_FAVOURITE_PULL: Final = 0.8
_COUNTRY_SPREAD: Final = 0.5
_AUTHOR_QUALITY_SHARE: Final = 0.3
_HOME_TOPIC_SHARE: Final = 0.8
_ITEMS_PER_AUTHOR: Final = 12


class SimulationConfig(BaseModel):
    """How large the simulated log is, and how people and the log policy behave in it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    n_users: Annotated[int, Field(ge=1)] = Field(default=600, description="Users; some of them never come.")
    n_items: Annotated[int, Field(ge=2)] = Field(default=800, description="Items in the catalogue at the end.")
    n_days: Annotated[int, Field(ge=1)] = Field(default=60, description="Days that the log covers.")
    ends_at: AwareDatetime = Field(
        default=datetime(2026, 1, 1, tzinfo=UTC),
        description="Moment at which the log ends; nothing happens at or after it.",
    )
    new_item_share: Share = Field(
        default=0.6,
        description="Share of items that arrive while the log runs, evenly over time; the others are older.",
    )
    two_topic_share: Share = Field(default=0.35, description="Share of items that mix two topics.")
    category_noise: Share = Field(
        default=0.15,
        description="Share of items whose categories are missing (half of them) or name the broad topic only.",
    )
    late_user_share: Share = Field(default=0.3, description="Share of users who join while the log runs.")
    sessions_per_user: NotNegative = Field(
        default=5.0,
        description="Mean sessions of a user who is there from the first day; activity varies much between users.",
    )
    requests_per_session: Annotated[float, Field(ge=1.0)] = Field(
        default=2.2, description="Mean requests in a session."
    )
    slate_size: Annotated[int, Field(ge=1)] = Field(default=10, description="Items shown at a request.")
    position_bias_exponent: NotNegative = Field(
        default=0.5,
        description="Position p is looked at with probability p to the minus this; 0 means no position bias.",
    )
    base_relevance: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(
        default=0.07, description="Relevance of an item of mean quality that is wholly outside a user's interests."
    )
    interest_strength: NotNegative = Field(
        default=9.0,
        description="Log-odds of relevance that a full match with a user's interests adds; 0 means no signal.",
    )
    quality_strength: NotNegative = Field(
        default=0.4, description="Log-odds of relevance that one standard deviation of item quality adds."
    )
    interest_drift: NotNegative = Field(
        default=0.25,
        description="Standard deviation of the random step that interests (log scale) take before every session.",
    )
    topic_switch_share: Share = Field(
        default=0.25, description="Share of users who swap their main topic for another one midway."
    )
    policy_popularity: NotNegative = Field(
        default=0.5, description="Weight of recent clicks in the policy that chose slates."
    )
    policy_freshness: NotNegative = Field(default=1.5, description="Weight of an item's freshness in that policy.")
    policy_personalisation: NotNegative = Field(
        default=3.0,
        description="Weight of the match with the interests that a user had on the first day in that policy.",
    )
    editorial_share: Share = Field(
        default=0.1,
        description="Share of slates filled with the top of popularity and freshness; they have no propensity.",
    )
    like_share: Share = Field(default=0.3, description="Probability, times relevance, that a click leads to a like.")
    comment_share: Share = Field(
        default=0.12, description="Probability that a click leads to a comment, pleased or not."
    )
    purchase_share: Share = Field(
        default=0.1, description="Probability, times relevance, that a click leads to a purchase."
    )

    @model_validator(mode="after")
    def _first_slate_can_be_filled(self) -> Self:
        n_old = self.n_items - self.n_new_items
        if n_old < self.slate_size:
            raise ValueError(
                f"slate_size={self.slate_size}, but only {n_old} of {self.n_items} items are there on the first day; "
                "raise n_items, or lower slate_size or new_item_share"
            )
        return self

    @property
    def n_new_items(self) -> int:
        return round(self.n_items * self.new_item_share)

    @property
    def end_us(self) -> int:
        return int(self.ends_at.timestamp()) * SECOND_US

    @property
    def start_us(self) -> int:
        return self.end_us - self.n_days * DAY_US


@dataclass(frozen=True)
class DrawnItems:
    """Items in order of arrival, arrays `(n_items,)`: subtopic rows, the share of the second one, and attributes."""

    main: Int32
    second: Int32
    second_share: Float64
    author_idx: Int32
    n_authors: int
    quality: Float32
    reading_minutes: Int32
    created_at_us: Int64

    def mixtures(self, n_subtopics: int) -> Float32:
        """Return shares of subtopics, float32 `(n_items, n_subtopics)`."""
        rows = np.arange(len(self.main))
        shares = np.zeros((len(rows), n_subtopics), np.float32)
        shares[rows, self.main] = 1.0 - self.second_share
        mixed = self.second != NO_SUBTOPIC
        shares[rows[mixed], self.second[mixed]] += self.second_share[mixed].astype(np.float32)
        return shares


def _pick_allowed(allowed: npt.NDArray[np.bool_], rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Return one allowed column of each row, every one as likely; column 0 where none is."""
    return np.argmax(np.where(allowed, rng.random(allowed.shape), -1.0), axis=1)


def draw_items(
    config: SimulationConfig, topic_of_subtopic: Int32, max_authors: int, rng: np.random.Generator
) -> DrawnItems:
    """Draw subjects, authors (who mostly keep to one topic), quality, length and arrival of every item."""
    n, n_subtopics = config.n_items, len(topic_of_subtopic)
    main = rng.choice(n_subtopics, n, p=rng.dirichlet(np.full(n_subtopics, 8.0)))
    topic = topic_of_subtopic[main]
    is_sibling = topic_of_subtopic == topic[:, None]
    is_sibling[np.arange(n), main] = False
    elsewhere = _pick_allowed(topic_of_subtopic != topic[:, None], rng)
    sibling = _pick_allowed(is_sibling, rng)
    kind = rng.random(n)
    # Of the items within one topic, half stay with one subtopic.
    stays = kind > (1.0 + config.two_topic_share) / 2
    second = np.where(kind < config.two_topic_share, elsewhere, np.where(stays, NO_SUBTOPIC, sibling))
    share = np.where(second == NO_SUBTOPIC, 0.0, rng.uniform(0.2, 0.45, n))

    n_topics = int(topic_of_subtopic.max()) + 1
    n_authors = min(max(n // _ITEMS_PER_AUTHOR, n_topics), max_authors)
    keeps_home = rng.random(n) < _HOME_TOPIC_SHARE
    author = _pick_allowed((np.arange(n_authors) % n_topics == topic[:, None]) | ~keeps_home[:, None], rng)
    by_author = rng.standard_normal(n_authors)[author]
    own = rng.standard_normal(n)
    quality = np.sqrt(_AUTHOR_QUALITY_SHARE) * by_author + np.sqrt(1.0 - _AUTHOR_QUALITY_SHARE) * own
    return DrawnItems(
        main.astype(np.int32),
        second.astype(np.int32),
        share,
        author.astype(np.int32),
        n_authors,
        quality.astype(np.float32),
        np.clip(np.round(rng.lognormal(np.log(35), 0.6, n)), 5, 240).astype(np.int32),
        _draw_arrivals(config, rng),
    )


def _draw_arrivals(config: SimulationConfig, rng: np.random.Generator) -> Int64:
    """Return when items arrive, int64 microseconds `(n_items,)`, rising, whole seconds."""
    n_new, n_old = config.n_new_items, config.n_items - config.n_new_items
    old = config.start_us - rng.uniform(0, _BACK_CATALOGUE_DAYS * DAY_US, n_old)
    new = config.start_us + (np.arange(n_new) + rng.random(n_new)) / max(n_new, 1) * config.n_days * DAY_US
    return np.sort(np.concatenate([old, new]).astype(np.int64) // SECOND_US * SECOND_US)


@dataclass(frozen=True)
class Sessions:
    """Visits sorted by (user, start): int32 and int64 `(n_sessions,)`; starts are whole seconds."""

    user_idx: Int32
    start_us: Int64


def draw_sessions(config: SimulationConfig, rng: np.random.Generator) -> Sessions:
    """Draw when users come: at rates that differ from user to user, from the day they joined, mostly in the evening."""
    joined_day = np.where(
        rng.random(config.n_users) < config.late_user_share, rng.integers(config.n_days, size=config.n_users), 0
    )
    days_there = config.n_days - joined_day
    rate = rng.gamma(1.2, config.sessions_per_user / 1.2, config.n_users)
    user = np.repeat(np.arange(config.n_users, dtype=np.int32), rng.poisson(rate * days_there / config.n_days))
    day = joined_day[user] + np.floor(rng.random(len(user)) * days_there[user])
    second_of_day = np.floor(rng.normal(19.0, 4.0, len(user)) % 24 * 3600)
    start_us = config.start_us + day.astype(np.int64) * DAY_US + second_of_day.astype(np.int64) * SECOND_US
    order = np.lexsort((start_us, user))
    return Sessions(user[order], start_us[order])


def draw_interest_states(
    config: SimulationConfig, topic_of_subtopic: Int32, country_idx: Int32, sessions: Sessions, rng: np.random.Generator
) -> tuple[Int32, Int64, Float32]:
    """Return `state_user_idx`, `state_since_us` and `state_interests` of `Truth`.

    Log interests are tastes of one's own, plus three liked topics (which ones depends a little on the country) with a
    favourite subtopic each, plus a random walk over sessions. Who switches has another first topic from midway on.
    """
    n_users, n_topics, n_subtopics = config.n_users, int(topic_of_subtopic.max()) + 1, len(topic_of_subtopic)
    tilt = rng.normal(0, _COUNTRY_SPREAD, (int(country_idx.max()) + 1, n_topics))
    liked = np.argsort(-(tilt[country_idx] + rng.gumbel(size=(n_users, n_topics))), axis=1)[:, :4]

    def pull(topics: npt.NDArray[np.int64], strength: float) -> Float64:
        in_topic = topic_of_subtopic == topics[:, None]
        pulls = in_topic * strength
        pulls[np.arange(n_users), _pick_allowed(in_topic, rng)] += _FAVOURITE_PULL
        return pulls

    lasting = rng.normal(0, 0.5, (n_users, n_subtopics))
    lasting += pull(liked[:, 1], _TOPIC_PULLS[1]) + pull(liked[:, 2], _TOPIC_PULLS[2])
    before = lasting + pull(liked[:, 0], _TOPIC_PULLS[0])
    after = lasting + pull(liked[:, 3], _TOPIC_PULLS[0])
    midway = config.start_us + (rng.uniform(0.3, 0.7, n_users) * config.n_days * DAY_US).astype(np.int64)
    switch_us = np.where(rng.random(n_users) < config.topic_switch_share, midway, _NEVER_US)

    user = np.concatenate([np.arange(n_users, dtype=np.int32), sessions.user_idx])
    since = np.concatenate([np.full(n_users, config.start_us), sessions.start_us])
    order = np.lexsort((np.arange(len(user)), since, user))
    user, since = user[order], since[order]
    first = np.searchsorted(user, np.arange(n_users))
    walk = np.cumsum(rng.normal(0, config.interest_drift, (len(user), n_subtopics)), axis=0)
    walk -= walk[first][user]
    log_interests = np.where((since >= switch_us[user])[:, None], after[user], before[user]) + walk
    return user, since, softmax(log_interests, axis=1).astype(np.float32)
