"""Who may call, with which key, and what the others are told."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from fastapi.testclient import TestClient
from serving_toys import toy_engine

from recsys.errors import ConfigError
from serving.access import is_loopback, needs_keys
from serving.app import create_app
from serving.errors import StoreError
from serving.keys import KeyRing, StoredKey, hash_secret, new_key
from serving.service import Service
from serving.settings import Settings

RECOMMEND, SIMILAR, EVENTS = "/v1/recommendations", "/v1/similar", "/v1/events"
CLICK = {"events": [{"user_id": "u", "item_id": "i1", "event": "click"}]}


class KeysInMemory:
    def __init__(self, *kept: StoredKey) -> None:
        self.kept = list(kept)
        self.is_away = False

    def add_key(self, key: StoredKey) -> None:
        self.kept.append(key)

    def keys(self) -> list[StoredKey]:
        if self.is_away:
            raise StoreError("the store is away")
        return list(self.kept)

    def revoke_key(self, key_id: str, at_us: int) -> bool:
        self.kept = [replace(key, revoked_us=at_us) if key.key_id == key_id else key for key in self.kept]
        return True

    def close(self) -> None:
        """Nothing is open."""


READ, READ_KEPT = new_key("reader", ["read"])
WRITE, WRITE_KEPT = new_key("writer", ["events"])
ADMIN, ADMIN_KEPT = new_key("owner", ["admin"])
REVOKED, REVOKED_KEPT = new_key("former", ["read"])


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    store = KeysInMemory(READ_KEPT, WRITE_KEPT, ADMIN_KEPT, replace(REVOKED_KEPT, revoked_us=1))
    service = Service(Settings(host="0.0.0.0"), lambda _: toy_engine())
    with TestClient(create_app(service=service, open_keys=lambda: store)) as client:
        service._thread.join()
        while client.get("/metrics", headers={"X-API-Key": READ}).status_code == 503:
            pass
        yield client


@pytest.mark.parametrize(
    ("path", "body", "key"),
    [(RECOMMEND, {}, READ), (SIMILAR, {"item_id": "i1"}, READ), (EVENTS, CLICK, WRITE)],
)
def test_a_key_opens_what_its_scope_names_by_either_header(
    client: TestClient, path: str, body: dict[str, Any], key: str
) -> None:
    assert client.post(path, json=body, headers={"Authorization": f"Bearer {key}"}).status_code == 200
    assert client.post(path, json=body, headers={"X-API-Key": key}).status_code == 200


@pytest.mark.parametrize(
    ("path", "key", "scope"), [(RECOMMEND, WRITE, "read"), (SIMILAR, ADMIN, "read"), (EVENTS, READ, "events")]
)
def test_a_key_without_the_scope_is_forbidden_and_told_which(
    client: TestClient, path: str, key: str, scope: str
) -> None:
    response = client.post(path, json={}, headers={"X-API-Key": key})

    assert (response.status_code, response.json()["error"]["code"]) == (403, "forbidden")
    assert f"needs a key with the scope {scope}" in response.json()["error"]["message"]


def test_unknown_revoked_and_malformed_keys_get_one_and_the_same_answer(client: TestClient) -> None:
    unknown = new_key("stranger", ["read"])[0]
    wrong = READ[:-1] + ("A" if READ[-1] != "A" else "B")
    bodies = set()
    for key in (unknown, REVOKED, wrong, "x", "rk__", READ + " ", "ü" * 50):
        response = client.post(RECOMMEND, json={}, headers={b"X-API-Key": key.strip().encode("latin-1") + b"!"})
        assert response.status_code == 401
        assert response.headers["www-authenticate"].startswith("Bearer")
        bodies.add(response.text)
    assert len(bodies) == 1
    assert "no API key was sent" in client.post(RECOMMEND, json={}).json()["error"]["message"]


def test_metrics_need_a_key_and_health_does_not(client: TestClient) -> None:
    assert client.get("/metrics").status_code == 401
    assert client.get("/metrics", headers={"X-API-Key": WRITE}).status_code == 403
    assert client.get("/metrics", headers={"X-API-Key": ADMIN}).status_code == 200
    assert client.get("/health/live").status_code == 200
    assert client.get("/health/ready").status_code == 200


def test_the_key_is_asked_for_before_the_body_is_looked_at(client: TestClient) -> None:
    assert client.post(RECOMMEND, content=b"no json").status_code == 401


def test_a_revoked_key_stops_to_open_and_the_last_keys_stay_while_the_store_is_away() -> None:
    store = KeysInMemory(READ_KEPT, WRITE_KEPT)
    ring = KeyRing(lambda: store, max_age_s=60)
    with pytest.raises(StoreError, match="cannot be read yet"):
        ring.find(READ)
    ring.refresh(store)
    assert ring.find(READ) == READ_KEPT

    store.is_away = True
    with pytest.raises(StoreError, match="away"):
        ring.refresh(store)
    assert ring.find(READ) == READ_KEPT

    store.is_away = False
    store.revoke_key(READ_KEPT.key_id, 1)
    ring.refresh(store)
    assert ring.find(READ) is None
    assert ring.find(WRITE) == WRITE_KEPT


def test_the_ring_reads_by_itself_until_it_is_stopped() -> None:
    store = KeysInMemory()
    ring = KeyRing(lambda: store, max_age_s=0.01)
    ring.start()
    store.add_key(READ_KEPT)
    while True:
        try:
            if ring.find(READ):
                break
        except StoreError:
            continue
    ring.stop()
    ring._thread.join()
    with pytest.raises(StoreError):
        ring.find(READ)


def test_nothing_that_is_kept_tells_the_secret() -> None:
    key, kept = new_key("reader", ["events", "read"], now_us=7)

    secret = key.split("_", 2)[2]
    assert key.startswith(f"rk_{kept.key_id}_")
    assert kept.hash == hash_secret(secret, kept.salt)
    assert secret not in repr(kept)
    assert kept.scopes == ("read", "events")
    assert (kept.created_us, kept.revoked_us) == (7, None)
    assert new_key("reader", ["read"])[0] != key


@pytest.mark.parametrize(
    ("name", "scopes", "message"),
    [
        ("n", [], "no scope was given; a key needs at least one of read, events, admin"),
        ("n", ["read", "root"], r"unknown scope\(s\) 'root'"),
        (" ", ["read"], "printable name"),
        ("a\nb", ["read"], "printable name"),
    ],
)
def test_keys_without_scope_or_name_are_not_made(name: str, scopes: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        new_key(name, scopes)


def test_keys_are_off_on_loopback_hosts_only() -> None:
    assert [is_loopback(host) for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost")] == [True] * 4
    assert [is_loopback(host) for host in ("0.0.0.0", "::", "10.0.0.1", "example.org", "")] == [False] * 5
    assert not needs_keys(Settings())
    assert not needs_keys(Settings(auth="off"))
    assert needs_keys(Settings(auth="on"))
    assert needs_keys(Settings(host="0.0.0.0"))
    with pytest.raises(ConfigError, match=r"allowed on a loopback host only, and RECSYS_HOST is '0.0.0.0'"):
        needs_keys(Settings(host="0.0.0.0", auth="off"))


@pytest.mark.parametrize(
    ("address", "headers", "status"),
    [
        ("127.0.0.1", {}, 200),
        ("10.1.2.3", {}, 401),
        ("2001:db8::1", {}, 401),
        ("127.0.0.1", {"X-Forwarded-For": "1.2.3.4"}, 401),
        ("127.0.0.1", {"Forwarded": "for=127.0.0.1"}, 401),
    ],
)
def test_without_keys_only_callers_on_this_machine_are_answered(
    address: str, headers: dict[str, str], status: int
) -> None:
    service = Service(Settings(), lambda _: toy_engine())
    with TestClient(create_app(service=service), client=(address, 1)) as client:
        service._thread.join()
        response = client.post(RECOMMEND, json={}, headers=headers)

    assert response.status_code == status
    assert status == 200 or "callers on its own machine only" in response.json()["error"]["message"]
