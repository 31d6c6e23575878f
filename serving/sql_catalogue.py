"""Items and API keys in SQL: rows in and out. Functions that write work on a connection within a transaction."""

import json
from collections.abc import Sequence
from typing import Any, Final

import sqlalchemy as sa

from recsys.event_tables import ITEMS_FEED, api_keys_table, items_table
from serving.database import next_numbers
from serving.sql_events import insert_for
from serving.stored import ItemChange, StoredItem, StoredKey

_ITEM_COLUMNS: Final = (
    "item_id",
    "title",
    "description",
    "categories",
    "created_at_us",
    "attributes",
    "change",
    "updated_us",
    "is_deleted",
)

ITEMS_AFTER: Final = (
    sa.select(*(items_table.c[name] for name in _ITEM_COLUMNS))
    .where(items_table.c.change > sa.bindparam("after"))
    .order_by(items_table.c.change)
    .limit(sa.bindparam("max_rows"))
)
KEYS: Final = sa.select(api_keys_table).order_by(api_keys_table.c.created_us, api_keys_table.c.key_id)


def select_known(item_ids: Sequence[str]) -> sa.Select[tuple[str, bool]]:
    """Return the query for those of some items that have a row, and whether each was deleted."""
    return sa.select(items_table.c.item_id, items_table.c.is_deleted).where(items_table.c.item_id.in_(item_ids))


def put_item(connection: sa.Connection, item: StoredItem, updated_us: int) -> int:
    """Store an item in place of what was there; see `EventStore.put_item`."""
    return _replace(connection, item, updated_us, is_deleted=False)


def delete_item(connection: sa.Connection, item_id: str, updated_us: int) -> int:
    """Leave nothing of an item but that it was deleted; see `EventStore.delete_item`."""
    return _replace(connection, StoredItem(item_id), updated_us, is_deleted=True)


def item_change_of(row: Sequence[Any]) -> ItemChange:
    """Return the change of a row of `ITEMS_AFTER`."""
    item_id, title, description, categories, created_at_us, attributes, change, updated_us, is_deleted = row
    item = StoredItem(item_id, title, description, tuple(json.loads(categories)), created_at_us, json.loads(attributes))
    return ItemChange(change, item_id, None if is_deleted else item, updated_us)


def key_of(row: Sequence[Any]) -> StoredKey:
    """Return the key of a row of `KEYS`."""
    key_id, name, scopes, salt, hash_, created_us, revoked_us = row
    return StoredKey(key_id, name, tuple(json.loads(scopes)), bytes(salt), bytes(hash_), created_us, revoked_us)


def add_key(connection: sa.Connection, key: StoredKey) -> bool:
    """Store a key; return False where its id is taken."""
    values = {
        "key_id": key.key_id,
        "name": key.name,
        "scopes": as_json(list(key.scopes)),
        "salt": key.salt,
        "hash": key.hash,
        "created_us": key.created_us,
        "revoked_us": key.revoked_us,
    }
    insert = insert_for(connection)(api_keys_table).values(**values)
    insert = insert.on_conflict_do_nothing(index_elements=["key_id"]).returning(api_keys_table.c.key_id)
    return connection.execute(insert).first() is not None


def revoke_key(connection: sa.Connection, key_id: str, at_us: int) -> bool:
    """Revoke a key that opens; return whether there was one."""
    table = api_keys_table
    opens = sa.and_(table.c.key_id == key_id, table.c.revoked_us.is_(None))
    return bool(connection.execute(sa.update(table).where(opens).values(revoked_us=at_us)).rowcount)


def as_json(value: Any) -> str:
    """Return a value as compact JSON."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _replace(connection: sa.Connection, item: StoredItem, updated_us: int, *, is_deleted: bool) -> int:
    change = next_numbers(connection, ITEMS_FEED)
    values = {
        "title": item.title,
        "description": item.description,
        "categories": as_json(list(item.categories)),
        "created_at_us": item.created_at_us,
        "attributes": as_json(item.attributes),
        "change": change,
        "updated_us": updated_us,
        "is_deleted": is_deleted,
    }
    insert = insert_for(connection)(items_table).values(item_id=item.item_id, **values)
    connection.execute(insert.on_conflict_do_update(index_elements=["item_id"], set_=values))
    return change
