"""Recommendations in Python, without a server: the same engine, the same lists."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self, TypeVar

from pydantic import BaseModel, ValidationError

from recsys.errors import RegistryError, RequestError
from serving.engine import Engine
from serving.faults import as_request_error
from serving.loading import open_engine
from serving.schemas import RecommendationRequest, SimilarRequest
from serving.settings import Settings
from serving.slates import ModelInfo, SlateItem
from serving.store import NoStore, SqlEventStore

_MODEL_URI: Final = re.compile(r"models:/(?P<name>[^@/]+)(?:@(?P<alias>[^@/]+)|/(?P<version>\d+))")
_Body = TypeVar("_Body", bound=BaseModel)


@dataclass(frozen=True)
class Recommendation:
    """An item of a list. rank: 1-based. score: orders this list only. title: the id where the item has none.

    sources: the candidate sources that proposed the item; empty for similar items and for given candidates.
    explanation: what each group of features added to the score, by group; evidence: a sentence; both with `explain`.
    """

    item_id: str
    title: str
    score: float
    rank: int
    sources: tuple[str, ...] = ()
    explanation: Mapping[str, float] | None = None
    evidence: str | None = None


class Recommender:
    """Answers from one engine, in this process. Made by `load`; close it, or use it in a `with` block."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        models = self.engine.bundle.models
        return (
            f"Recommender({self.model.name} version {self.model.version[:12]}: "
            f"{len(models.user_ids)} users × {len(models.catalogue)} items)"
        )

    @property
    def model(self) -> ModelInfo:
        """Which model answers."""
        return self.engine.model

    def recommend(
        self,
        user_id: str | None = None,
        n: int = 10,
        *,
        history: Sequence[str | Mapping[str, Any]] = (),
        candidates: Sequence[str] | None = None,
        exclude: Sequence[str] = (),
        exclude_seen: bool | Mapping[str, Any] = True,
        diversity: float = 0.0,
        **rules: Any,
    ) -> list[Recommendation]:
        """Return at most `n` items for a user, best first: the list that POST /v1/recommendations gives.

        Args:
            user_id: None for someone without an id; an unknown id is answered from `history`, else from popularity.
            n: 1 to 1,000.
            history: what the user did beyond what is known, oldest first: item ids, or mappings with `item_id` and
                optionally `timestamp` and `event`. Unknown items are left aside.
            candidates: the only items to order; None searches the whole catalogue.
            exclude: items that must not be in the list.
            exclude_seen: leave out the items of the history, or what a mapping says counts as seen; candidates stay in.
            diversity: 0 to 1, how far alike items give way to others. 0 is the ranker's order; see docs/diversity.md.
            rules: `filter`, `boosts`, `pins`, `caps`, `freshness`, `exploration` as in docs/rules.md, and `explain`.

        Raises:
            RequestError: an argument is of the wrong type or out of bounds; `field` names it.
            StoreError: the user's events cannot be read.
        """
        body = _checked(
            RecommendationRequest,
            user_id=user_id,
            n=n,
            history=[dict(entry) if isinstance(entry, Mapping) else entry for entry in _list("history", history)],
            candidates=None if candidates is None else _list("candidates", candidates),
            exclude=_list("exclude", exclude),
            exclude_seen=dict(exclude_seen) if isinstance(exclude_seen, Mapping) else exclude_seen,
            diversity=diversity,
            **rules,
        )
        return [self._recommendation(item) for item in self.engine.recommend(body.query()).items]

    def similar(self, item_id: str, n: int = 10, *, exclude: Sequence[str] = ()) -> list[Recommendation]:
        """Return at most `n` items like an item, most similar first: the list that POST /v1/similar gives.

        Raises:
            RequestError: an argument is of the wrong type or out of bounds; `UnknownItemError`, a kind of it, when the
                catalogue lacks the item.
        """
        body = _checked(SimilarRequest, item_id=item_id, n=n, exclude=_list("exclude", exclude))
        return [self._recommendation(item) for item in self.engine.similar(body.item_id, body.n, body.exclude).items]

    def close(self) -> None:
        """Release the store."""
        self.engine.store.close()

    def _recommendation(self, item: SlateItem) -> Recommendation:
        parts = item.explanation
        return Recommendation(
            item.item_id,
            self.engine.title_of(item.item_id),
            item.score,
            item.rank,
            item.sources,
            explanation=None if parts is None else {part.group: part.contribution for part in parts},
            evidence=None if item.evidence is None else item.evidence.sentence,
        )


def load(
    model: str | Path = "models:/recsys@champion", *, tracking_uri: str | None = None, store_url: str | None = None
) -> Recommender:
    """Return a recommender for a registered model or a bundle.

    Args:
        model: `models:/NAME@ALIAS`, `models:/NAME/VERSION`, or the folder of a bundle.
        tracking_uri: where the model is registered; None takes MLFLOW_TRACKING_URI, else sqlite:///mlflow.db.
        store_url: event store whose events count as history, such as the one of a server; None for no events.

    Raises:
        BundleError: the bundle is damaged or incomplete.
        RegistryError: the registry cannot be reached, or has no such model, alias or version.
        StoreError: the store cannot be opened.
    """
    values: dict[str, Any] = {"tracking_uri": tracking_uri}
    if isinstance(model, str) and model.startswith("models:"):
        parts = _MODEL_URI.fullmatch(model)
        if parts is None:
            raise RegistryError(
                f"{model!r} names no registered model; write models:/NAME@ALIAS, such as models:/recsys@champion, or "
                "models:/NAME/VERSION"
            )
        values |= {"model_name": parts["name"], "alias": parts["alias"] or parts["version"]}
    else:
        values["bundle"] = Path(model)
    store = SqlEventStore(store_url) if store_url is not None else NoStore()
    return Recommender(open_engine(Settings(**values), store))


def _list(name: str, values: Sequence[Any]) -> list[Any]:
    if isinstance(values, str | bytes):
        raise RequestError(f"{name} is one string, {values!r}; pass a list of item ids", field=name)
    return list(values)


def _checked(kind: type[_Body], **values: Any) -> _Body:
    try:
        return kind(**values)
    except ValidationError as error:
        raise as_request_error(error) from None
