"""The endpoints: bodies in, engine, bodies out."""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Body, Depends, Request, Response, Security
from fastapi.security import APIKeyHeader, HTTPBearer

from serving.errors import NotReadyError
from serving.refusals import documented
from serving.schemas import (
    DeletedItemResponse,
    DeletedUserResponse,
    EventBatch,
    EventsResponse,
    ItemIn,
    ItemResponse,
    LiveResponse,
    ModelOut,
    ReadyResponse,
    RecommendationRequest,
    RecommendationResponse,
    SimilarRequest,
    SimilarResponse,
)
from serving.schemas_base import Id
from serving.service import Service
from serving.slates import ModelInfo, Slate, SlateItem
from serving.strict import StrictRequest, StrictRoute, needs
from serving.telemetry import CONTENT_TYPE_LATEST, count_events, exposition

# For the documents alone: `serving.access` checks.
_KEYS: Final = [
    Security(HTTPBearer(auto_error=False, scheme_name="bearer", description="An API key.")),
    Security(APIKeyHeader(name="X-API-Key", auto_error=False, scheme_name="header", description="An API key.")),
]

api: Final = APIRouter(prefix="/v1", route_class=StrictRoute, dependencies=_KEYS)
health: Final = APIRouter(prefix="/health", tags=["health"])
figures: Final = APIRouter(tags=["health"])

_MODEL_EXAMPLE: Final = {"name": "recsys", "version": "12", "alias": "champion"}
_METRICS_EXAMPLE: Final = 'recsys_requests_total{route="/v1/recommendations",status="200"} 12.0'
_ERROR_STATUSES: Final = (400, 401, 403, 408, 413, 415, 422, 503)


def _examples(**values: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    return {name: {"summary": summary, "value": value} for name, (summary, value) in values.items()}


def _answer(description: str, example: dict[str, Any]) -> dict[int | str, dict[str, Any]]:
    return {200: {"description": description, "content": {"application/json": {"example": example}}}}


async def service_of(request: Request) -> Service:
    """Return the service that the app runs."""
    service: Service = request.app.state.service
    return service


RunningService = Annotated[Service, Depends(service_of)]


def _model_out(model: ModelInfo) -> dict[str, Any]:
    return {"name": model.name, "version": model.version, "alias": model.alias}


def _item_out(item: SlateItem) -> dict[str, Any]:
    return {
        "item_id": item.item_id,
        "score": item.score,
        "rank": item.rank,
        "sources": item.sources,
        "rule": item.rule,
        "propensity": 1.0 if item.propensity is None else item.propensity,
        "explanation": item.explanation,  # orjson writes data classes as they are
        "evidence": item.evidence,
    }


def _slate_out(slate: Slate) -> dict[str, Any]:
    return {
        "recommendation_id": slate.recommendation_id,
        "model": _model_out(slate.model),
        "degraded": slate.degraded,
        "rung": slate.rung,
        "degraded_reason": slate.degraded_reason,
        "user": slate.user.value,
        "items": [_item_out(item) for item in slate.items],
        "ignored": {part: {"count": ids.count, "first": ids.first} for part, ids in slate.ignored.items()},
    }


@api.post(
    "/recommendations",
    tags=["recommendations"],
    summary="Recommend items to a user, or order given ones",
    response_model=RecommendationResponse,
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
            "items": [
                {
                    "item_id": "i9",
                    "score": 0.81,
                    "rank": 1,
                    "sources": ["als", "text"],
                    "rule": "ranking",
                    "propensity": 1.0,
                    "explanation": [
                        {"group": "text", "contribution": 0.5},
                        {"group": "collaborative", "contribution": 0.43},
                        {"group": "base", "contribution": -0.12},
                    ],
                    "evidence": {
                        "kind": "text",
                        "item_id": "i2",
                        "title": "Learning to turn green wood",
                        "event": "click",
                        "strength": 0.71,
                        "sentence": "Because you opened “Learning to turn green wood”",
                    },
                }
            ],
            "ignored": {"history": {"count": 1, "first": ["no-such-item"]}},
        },
    ),
)
@needs("read")
async def recommend(
    request: StrictRequest,
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
) -> dict[str, Any]:
    """A known user's list comes from their behaviour in training and everything stored since. A session is passed as
    `history` and is added to what is known. With `candidates` only those are ordered."""
    service = request.service
    slate = await request.work(
        request.lanes.reads, lambda waited_ms: service.recommend(body.query(), waited_ms=waited_ms)
    )
    request.tell(user_id=body.user_id, model=slate.model, degraded=slate.degraded)
    return _slate_out(slate)


@api.post(
    "/similar",
    tags=["recommendations"],
    summary="Items like an item",
    response_model=SimilarResponse,
    responses=documented(404, *_ERROR_STATUSES)
    | _answer(
        "Most similar first.",
        {"model": _MODEL_EXAMPLE, "items": [{"item_id": "i3", "score": 0.64, "rank": 1}]},
    ),
)
@needs("read")
async def similar(
    request: StrictRequest,
    body: Annotated[
        SimilarRequest,
        Body(openapi_examples=_examples(item=("Five items like one", {"item_id": "i9", "n": 5}))),
    ],
) -> dict[str, Any]:
    """Likeness is the mean of the cosines of text and behaviour, in [-1, 1]; an item without behaviour is compared by
    its text."""
    engine = request.service.engine
    found = await request.work(
        request.lanes.reads, lambda waited_ms: engine.similar(body.item_id, body.n, body.exclude)
    )
    request.tell(model=found.model)
    return {
        "model": _model_out(found.model),
        "items": [{"item_id": item.item_id, "score": item.score, "rank": item.rank} for item in found.items],
    }


@api.post(
    "/events",
    tags=["events"],
    summary="Tell what users did",
    response_model=EventsResponse,
    responses=documented(409, *_ERROR_STATUSES)
    | _answer(
        "All events are stored, but for what deleted users did before their deletion.",
        {"accepted": 2, "duplicates": 1, "forgotten": 0, "event_ids": ["e1", "e2"]},
    ),
)
@needs("events", lane="writes")
async def add_events(
    request: StrictRequest,
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
) -> dict[str, Any]:
    """A batch is stored whole or refused whole, and once stored is there after a crash. The next request of each user
    knows it. An `event_id` that comes again with the same content changes nothing. What a deleted user did before the
    deletion is counted as `forgotten` and not stored."""
    engine = request.service.engine
    events = [event.new_event() for event in body.events]
    stored = await request.work(request.lanes.writes, lambda waited_ms: engine.add_events(events))
    count_events(len(events), duplicates=stored.duplicates, forgotten=stored.forgotten)
    request.tell(user_id=events[0].user_id if len(events) == 1 else None, model=engine.model)
    return {
        "accepted": len(events),
        "duplicates": stored.duplicates,
        "forgotten": stored.forgotten,
        "event_ids": stored.event_ids,
    }


@api.put(
    "/items/{item_id:path}",
    tags=["items"],
    summary="Add or replace an item",
    response_model=ItemResponse,
    responses=documented(507, *_ERROR_STATUSES)
    | _answer("It can be recommended from now on.", {"item_id": "i9", "is_new": True}),
)
@needs("admin", lane="writes")
async def put_item(
    request: StrictRequest,
    item_id: Id,
    body: Annotated[
        ItemIn,
        Body(
            openapi_examples=_examples(
                item=(
                    "A new article",
                    {
                        "title": "Rough out green wood with confidence",
                        "description": "What to look for before the first cut.",
                        "categories": ["woodworking"],
                        "created_at": "2026-05-01T12:30:00Z",
                        "attributes": {"author": "A. Turner", "minutes": 7, "has_pictures": True},
                    },
                )
            )
        ),
    ],
) -> dict[str, Any]:
    """The item's text is embedded and the item stands beside the others at once, in every process of the service within
    a second, without a training. Its own clicks count from then on. All fields are replaced."""
    engine = request.service.engine
    item = body.stored_item(item_id)
    is_new = await request.work(request.lanes.writes, lambda waited_ms: engine.put_item(item))
    request.tell(model=engine.model)
    return {"item_id": item_id, "is_new": is_new}


@api.delete(
    "/items/{item_id:path}",
    tags=["items"],
    summary="Take an item out of every list",
    response_model=DeletedItemResponse,
    responses=documented(404, *_ERROR_STATUSES) | _answer("It is in no list any more.", {"item_id": "i9"}),
)
@needs("admin", lane="writes")
async def delete_item(request: StrictRequest, item_id: Id) -> dict[str, Any]:
    """At once in the process that answers, within a second in the others. Putting the item again brings it back."""
    engine = request.service.engine
    await request.work(request.lanes.writes, lambda waited_ms: engine.delete_item(item_id))
    request.tell(model=engine.model)
    return {"item_id": item_id}


@api.delete(
    "/users/{user_id:path}",
    tags=["users"],
    summary="Delete a user",
    response_model=DeletedUserResponse,
    responses=documented(*_ERROR_STATUSES)
    | _answer("What was stored is gone.", {"user_id": "u1", "events": 12, "slates": 3, "in_model": True}),
)
@needs("admin", lane="writes")
async def delete_user(request: StrictRequest, user_id: Id) -> dict[str, Any]:
    """All stored events and slates of the user are deleted, and no list uses what the model knows of them any more. The
    answer is the receipt: what was deleted, and whether the model was trained on the user, which the next training
    from this store, or from data without the user, ends."""
    engine = request.service.engine
    deletion = await request.work(request.lanes.writes, lambda waited_ms: engine.delete_user(user_id))
    request.tell(user_id=user_id, model=engine.model)
    return {
        "user_id": user_id,
        "events": deletion.events,
        "slates": deletion.slates,
        "in_model": user_id in engine.bundle.models.user_ids,
    }


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
async def ready(request: Request, service: RunningService) -> ReadyResponse:
    """503 with the reason until a model is loaded, and once the process is about to end."""
    if request.app.state.drain.has_begun:
        raise NotReadyError("the service is ending; ask another one")
    engine = service.engine
    models = engine.bundle.models
    return ReadyResponse(
        status="ready",
        model=ModelOut(**_model_out(engine.model)),
        bundle_id=engine.bundle.manifest.bundle_id,
        items=len(models.catalogue),
        users=len(models.user_ids),
    )


@figures.get(
    "/metrics",
    summary="Figures for Prometheus",
    response_class=Response,
    dependencies=_KEYS,
    responses=documented(401, 403)
    | {200: {"description": "Every figure.", "content": {"text/plain": {"example": _METRICS_EXAMPLE}}}},
)
async def metrics(request: Request) -> Response:
    """Figures of all processes of the service in the text format of Prometheus; docs/operations.md explains each."""
    request.app.state.access.check(("read", "admin"))
    return Response(exposition(), media_type=CONTENT_TYPE_LATEST)
