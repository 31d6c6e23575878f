"""The endpoints: bodies in, engine, bodies out."""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Body, Depends, Request

from serving.engine import Engine
from serving.refusals import documented
from serving.schemas import (
    EventBatch,
    EventsResponse,
    IgnoredOut,
    LiveResponse,
    ModelOut,
    ReadyResponse,
    RecommendationRequest,
    RecommendationResponse,
    RecommendedItem,
    ScoredItem,
    SimilarRequest,
    SimilarResponse,
)
from serving.service import Service
from serving.slates import ModelInfo
from serving.strict import StrictRoute

api: Final = APIRouter(prefix="/v1", route_class=StrictRoute)
health: Final = APIRouter(prefix="/health", tags=["health"])

_MODEL_EXAMPLE: Final = {"name": "recsys", "version": "12", "alias": "champion"}
_ERROR_STATUSES: Final = (400, 413, 415, 422, 503)


def _examples(**values: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    return {name: {"summary": summary, "value": value} for name, (summary, value) in values.items()}


def _answer(description: str, example: dict[str, Any]) -> dict[int | str, dict[str, Any]]:
    return {200: {"description": description, "content": {"application/json": {"example": example}}}}


async def service_of(request: Request) -> Service:
    """Return the service that the app runs."""
    service: Service = request.app.state.service
    return service


async def engine_of(service: Annotated[Service, Depends(service_of)]) -> Engine:
    """Return the engine; raises `NotReadyError` until one is loaded."""
    return service.engine


ReadyEngine = Annotated[Engine, Depends(engine_of)]


def _model_out(model: ModelInfo) -> ModelOut:
    return ModelOut(name=model.name, version=model.version, alias=model.alias)


@api.post(
    "/recommendations",
    tags=["recommendations"],
    summary="Recommend items to a user, or order given ones",
    responses=documented(*_ERROR_STATUSES)
    | _answer(
        "The slate, best first.",
        {
            "recommendation_id": "0c4d3c1e-9c1b-4f57-9d0a-3a54b3b7a6de",
            "model": _MODEL_EXAMPLE,
            "degraded": True,
            "rung": "full",
            "degraded_reason": "store_unavailable",
            "user": "warm",
            "items": [{"item_id": "i9", "score": 0.81, "rank": 1, "sources": ["als", "text"]}],
            "ignored": {"history": {"count": 1, "first": ["no-such-item"]}},
        },
    ),
)
def recommend(
    body: Annotated[
        RecommendationRequest,
        Body(
            openapi_examples=_examples(
                user=("A known user", {"user_id": "u1", "n": 10, "exclude": ["i4"]}),
                session=(
                    "A session of someone without an id",
                    {
                        "history": ["i2", {"item_id": "i7", "timestamp": "2026-05-01T12:30:00Z", "event": "click"}],
                        "n": 5,
                    },
                ),
                rerank=("Given items in the best order", {"user_id": "u1", "candidates": ["i1", "i2", "i3"], "n": 3}),
            )
        ),
    ],
    service: Annotated[Service, Depends(service_of)],
) -> RecommendationResponse:
    """A known user's list comes from their behaviour in training and everything stored since. A session is passed as
    `history` and is added to what is known. With `candidates` only those are ordered."""
    slate = service.recommend(body.query())
    return RecommendationResponse(
        recommendation_id=slate.recommendation_id,
        model=_model_out(slate.model),
        degraded=slate.degraded,
        rung=slate.rung,
        degraded_reason=slate.degraded_reason,
        user=slate.user,
        items=[
            RecommendedItem(item_id=item.item_id, score=item.score, rank=item.rank, sources=list(item.sources))
            for item in slate.items
        ],
        ignored={part: IgnoredOut(count=ids.count, first=list(ids.first)) for part, ids in slate.ignored.items()},
    )


@api.post(
    "/similar",
    tags=["recommendations"],
    summary="Items like an item",
    responses=documented(404, *_ERROR_STATUSES)
    | _answer(
        "Most similar first.",
        {"model": _MODEL_EXAMPLE, "items": [{"item_id": "i3", "score": 0.64, "rank": 1}]},
    ),
)
def similar(
    body: Annotated[
        SimilarRequest,
        Body(openapi_examples=_examples(item=("Five items like one", {"item_id": "i9", "n": 5}))),
    ],
    engine: ReadyEngine,
) -> SimilarResponse:
    """Likeness is the mean of the cosines of text and behaviour, in [-1, 1]; an item without behaviour is compared by
    its text."""
    found = engine.similar(body.item_id, body.n, body.exclude)
    return SimilarResponse(
        model=_model_out(found.model),
        items=[ScoredItem(item_id=item.item_id, score=item.score, rank=item.rank) for item in found.items],
    )


@api.post(
    "/events",
    tags=["events"],
    summary="Tell what users did",
    responses=documented(409, *_ERROR_STATUSES)
    | _answer("All events are stored.", {"accepted": 2, "duplicates": 1, "event_ids": ["e1", "e2"]}),
)
def add_events(
    body: Annotated[
        EventBatch,
        Body(
            openapi_examples=_examples(
                batch=(
                    "A click out of a recommendation, and a rating",
                    {
                        "events": [
                            {
                                "event_id": "e1",
                                "user_id": "u1",
                                "item_id": "i9",
                                "event": "click",
                                "timestamp": "2026-05-01T12:30:00Z",
                                "recommendation_id": "0c4d3c1e-9c1b-4f57-9d0a-3a54b3b7a6de",
                            },
                            {"event_id": "e2", "user_id": "u2", "item_id": "i4", "event": "rating", "value": 4},
                        ]
                    },
                )
            )
        ),
    ],
    engine: ReadyEngine,
) -> EventsResponse:
    """A batch is stored whole or refused whole, and once stored is there after a crash. The next request of each user
    knows it. An `event_id` that comes again with the same content changes nothing."""
    stored = engine.add_events([event.new_event() for event in body.events])
    return EventsResponse(
        accepted=len(stored.event_ids), duplicates=stored.duplicates, event_ids=list(stored.event_ids)
    )


@health.get("/live", summary="Whether the process answers", responses=_answer("It does.", {"status": "live"}))
async def live() -> LiveResponse:
    """Answers as soon as the process listens, whether or not a model is loaded."""
    return LiveResponse(status="live")


@health.get(
    "/ready",
    summary="Whether requests are answered, and by which model",
    responses=documented(503)
    | _answer(
        "They are.",
        {"status": "ready", "model": _MODEL_EXAMPLE, "bundle_id": "5f0c…", "items": 3883, "users": 6040},
    ),
)
async def ready(engine: ReadyEngine) -> ReadyResponse:
    """503 with the reason until a model is loaded."""
    models = engine.bundle.models
    return ReadyResponse(
        status="ready",
        model=_model_out(engine.model),
        bundle_id=engine.bundle.manifest.bundle_id,
        items=len(models.catalogue),
        users=len(models.user_ids),
    )
