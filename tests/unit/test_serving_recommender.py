"""Recommendations in Python: the same lists as over HTTP."""

from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from serving_toys import toy_engine

from recsys.api import Recommendation, Recommender, load
from recsys.errors import BundleError, RegistryError, RequestError
from serving.app import create_app
from serving.errors import StoreError, UnknownItemError
from serving.service import Service
from serving.settings import Settings


@pytest.fixture
def recommender() -> Recommender:
    return Recommender(toy_engine())


def test_items_come_with_titles_and_the_id_where_there_is_none(recommender: Recommender) -> None:
    assert recommender.recommend(n=2) == [
        Recommendation("i3", "Title of i3", 7.0, 1, ("als", "popular")),
        Recommendation("i1", "Title of i1", 6.0, 2, ("als", "popular")),
    ]
    assert recommender.recommend(candidates=["i0"])[0].title == "i0"


@pytest.mark.parametrize(
    "arguments",
    [
        {"user_id": "ann"},
        {"user_id": "ann", "n": 3, "exclude": ["i3"]},
        {"user_id": "stranger", "history": ["i1", {"item_id": "i2", "timestamp": 1_600_000_000, "event": "view"}]},
        {"candidates": ["i4", "i2", "i3"], "n": 2},
        {"user_id": "ann", "exclude_seen": False},
        {"user_id": "ann", "diversity": 0.5},
        {"diversity": 1},
        {},
    ],
)
def test_python_and_http_give_the_same_list(arguments: dict[str, Any]) -> None:
    engine = toy_engine()
    service = Service(Settings(), lambda _: engine)
    with TestClient(create_app(service=service)) as client:
        service._thread.join()
        over_http = client.post("/v1/recommendations", json=arguments).json()["items"]
        in_python = Recommender(engine).recommend(**arguments)

    assert [{name: item[name] for name in ("item_id", "score", "rank", "sources")} for item in over_http] == [
        {"item_id": item.item_id, "score": item.score, "rank": item.rank, "sources": list(item.sources)}
        for item in in_python
    ]
    assert len(over_http) > 0


def test_tuples_are_as_good_as_lists(recommender: Recommender) -> None:
    assert [item.item_id for item in recommender.recommend(candidates=("i4", "i3"), exclude=("i4",))] == ["i3"]


def test_similar_items_come_with_titles(recommender: Recommender) -> None:
    found = recommender.similar("i3", n=1)

    assert [(item.item_id, item.title, item.rank) for item in found] == [("i1", "Title of i1", 1)]
    with pytest.raises(UnknownItemError, match="item 'zz' is not in the catalogue"):
        recommender.similar("zz")


@pytest.mark.parametrize(
    ("arguments", "message", "field"),
    [
        ({"n": 0}, r"n must be at least 1 \(got 0\)", "n"),
        ({"n": "5"}, "n must be a whole number", "n"),
        ({"diversity": 1.5}, r"diversity must be at most 1.0 \(got 1.5\)", "diversity"),
        ({"diversity": "much"}, "diversity must be a number", "diversity"),
        ({"history": "i1"}, "history is one string, 'i1'; pass a list of item ids", "history"),
        ({"candidates": "i1"}, "candidates is one string", "candidates"),
        ({"exclude": "i1"}, "exclude is one string", "exclude"),
        ({"candidates": ["i1"] * 10_001}, "candidates holds 10001 entries; at most 10000", "candidates"),
        ({"user_id": 5}, r"user_id must be a string \(got 5\)", "user_id"),
        ({"user_id": "a\ud800"}, "user_id holds a lone surrogate", "user_id"),
    ],
)
def test_arguments_are_checked_as_over_http(
    recommender: Recommender, arguments: dict[str, Any], message: str, field: str
) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        recommender.recommend(**arguments)

    assert caught.value.field == field


def test_its_text_says_which_model_it_is(recommender: Recommender) -> None:
    assert repr(recommender) == "Recommender(recsys version 12: 3 users × 7 items)"


def test_closing_closes_the_store() -> None:
    closed: list[bool] = []
    with Recommender(toy_engine()) as recommender:
        recommender.engine.store.close = lambda: closed.append(True)  # type: ignore[method-assign]

    assert closed == [True]


@pytest.mark.parametrize("model", ["models:/", "models:/recsys", "models:/recsys@", "models:/a/b/c", "models:recsys@x"])
def test_a_model_uri_that_names_nothing_is_explained(model: str) -> None:
    with pytest.raises(RegistryError, match="write models:/NAME@ALIAS"):
        load(model)


def test_a_registry_without_a_model_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match=r"recsys train --data FOLDER"):
        load("models:/recsys@champion", tracking_uri=f"sqlite:///{tmp_path / 'none.db'}")


def test_a_folder_that_is_no_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"is no bundle: manifest\.json cannot be read"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("no url", "the store's URL is no SQLAlchemy URL"),
        ("mysql://user:hunter2@host/x", r"the event store mysql://user:\*\*\*@host/x is neither SQLite nor PostgreSQL"),
        ("sqlite:////no/such/folder/x.db", "cannot be opened: unable to open database file; check that it exists"),
    ],
)
def test_a_store_that_cannot_be_opened_is_explained(tmp_path: Path, url: str, message: str) -> None:
    with pytest.raises(StoreError, match=message):
        load(tmp_path, store_url=url)


def test_a_driver_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        StoreError, match=r"postgresql\+pg8000://u:\*\*\*@h/d needs the Python package pg8000"
    ) as caught:
        load(tmp_path, store_url="postgresql+pg8000://u:secret@h/d")
    assert str(caught.value).endswith("or pip install 'psycopg[binary]' and begin the URL with postgresql+psycopg://")
