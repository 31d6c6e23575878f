"""Opens the store that API keys are kept in."""

from serving.keys import KeyStore
from serving.store import SqlEventStore


def open_key_store(url: str) -> KeyStore:
    """Return the store of API keys: the event store's own.

    Raises:
        StoreError: it cannot be opened.
    """
    return SqlEventStore(url)
