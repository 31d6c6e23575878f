"""A client of the HTTP service: typed answers, errors with their code, retries that are safe. Needs httpx alone.

from recsys.client import Client

with Client("http://127.0.0.1:8000") as client:
    slate = client.recommend("u1", n=3)
    client.add_events([{"user_id": "u1", "item_id": slate.items[0].item_id, "event": "click"}])
"""

from recsys.client.clients import AsyncClient, Client
from recsys.client.failures import (
    ClientError,
    ConnectionFailedError,
    DeadlineExceededError,
    ServiceError,
    UnexpectedAnswerError,
)
from recsys.client.results import EventsStored, Ignored, Item, Model, Ready, SimilarItems, Slate

__all__ = [
    "AsyncClient",
    "Client",
    "ClientError",
    "ConnectionFailedError",
    "DeadlineExceededError",
    "EventsStored",
    "Ignored",
    "Item",
    "Model",
    "Ready",
    "ServiceError",
    "SimilarItems",
    "Slate",
    "UnexpectedAnswerError",
]
