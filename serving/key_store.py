"""Opens the store that API keys are kept in."""

from typing import Any

from serving.errors import StoreError
from serving.keys import KeyStore
from serving.store import SqlEventStore


def open_key_store(url: str) -> KeyStore:
    """Return the store of API keys: the event store's own.

    Raises:
        StoreError: it cannot be opened, or keeps no keys.
    """
    store: Any = SqlEventStore(url)
    if not hasattr(store, "keys"):
        store.close()
        raise StoreError(f"the event store {store.shown_url} keeps no API keys")
    keeps: KeyStore = store
    return keeps
