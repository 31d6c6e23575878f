"""What the engine is asked and what it answers, without arrays and without HTTP."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from features.path import Ranking
from features.rungs import Rung
from recsys.histories import Request
from recsys.schema import Warmth
from serving.explain import Contribution, Evidence
from serving.rules import Rule, Rules
from serving.sessions import SessionItem
from serving.stored import ShownItem, StoredSlate

Int32 = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Query:
    """A wish for a list; see `serving.schemas.RecommendationRequest` for the meaning and the bounds of each field."""

    user_id: str | None = None
    n: int = 10
    history: Sequence[SessionItem] = ()
    candidates: Sequence[str] | None = None
    exclude: Sequence[str] = ()
    diversity: float = 0.0
    rules: Rules = field(default_factory=Rules)
    explain: bool = False


@dataclass(frozen=True)
class NewEvent:
    """An event as it comes in. Without `event_id` it gets a new one, without `timestamp_us` it happens now."""

    user_id: str
    item_id: str
    event: str
    event_id: str | None = None
    timestamp_us: int | None = None
    value: float | None = None
    recommendation_id: str | None = None
    text: str | None = None


@dataclass(frozen=True)
class ModelInfo:
    """Which model answers. alias: None for a bundle from a folder, whose version is its bundle id."""

    name: str
    version: str
    alias: str | None = None


@dataclass(frozen=True)
class Ignored:
    """What of a request was left aside: how many, and the first three ids; none of wishes that name no items."""

    count: int
    first: tuple[str, ...]


@dataclass(frozen=True)
class SlateItem:
    """An item of a list. rank: 1-based. score: orders this list only. sources: empty where the caller proposed it.

    propensity: chance with which the item was drawn; None where it was not. rule: what put it there. explanation,
    evidence: where they were asked for.
    """

    item_id: str
    score: float
    rank: int
    sources: tuple[str, ...] = ()
    propensity: float | None = None
    rule: Rule = Rule.RANKING
    explanation: tuple[Contribution, ...] | None = None
    evidence: Evidence | None = None


@dataclass(frozen=True)
class Slate:
    """The answer to a query. ignored: what was left aside, unknown ids above all, by the part of the request.

    degraded: whether the list is poorer than it could be. rung: the way that was taken. degraded_reason: why, if it is.
    """

    recommendation_id: str
    model: ModelInfo
    user: Warmth
    items: tuple[SlateItem, ...]
    ignored: dict[str, Ignored] = field(default_factory=dict)
    degraded: bool = False
    rung: Rung = Rung.FULL
    degraded_reason: str | None = None

    def stored(self, user_id: str | None, timestamp_us: int) -> StoredSlate:
        """Return the slate as it is kept."""
        shown = tuple(ShownItem(item.item_id, item.rank, item.propensity) for item in self.items)
        rung = None if self.rung == Rung.FULL else self.rung.value
        return StoredSlate(self.recommendation_id, user_id, timestamp_us, self.model.version, shown, rung=rung)


@dataclass(frozen=True)
class SimilarItems:
    """Items like one item, most similar first."""

    model: ModelInfo
    items: tuple[SlateItem, ...]


@dataclass(frozen=True)
class Stored:
    """What became of a batch: ids in its order, how many were known already, and how many were left out.

    forgotten: events of deleted users from before their deletion, which are not stored again.
    """

    event_ids: tuple[str, ...]
    duplicates: int
    forgotten: int = 0


@dataclass(frozen=True)
class ServedRequest:
    """An answered query as arrays, enough to compute its feature rows again.

    request: history, moment, user row and candidates as they were ranked. ranking: every candidate with its score and
    feature row, the first of which are the slate.
    """

    recommendation_id: str
    user_id: str | None
    request: Request
    exclude: Int32
    ranking: Ranking
