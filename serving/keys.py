"""API keys: how they are made, kept and checked."""

import hashlib
import hmac
import logging
import re
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

from recsys.errors import ConfigError
from serving.errors import StoreError
from serving.stored import StoredKey

SCOPES: Final = ("read", "events", "admin")

_PREFIX: Final = "rk"
_ID_BYTES: Final = 6
_SECRET_BYTES: Final = 32
_SALT_BYTES: Final = 16
_FORM: Final = re.compile(rf"{_PREFIX}_([0-9a-f]{{{2 * _ID_BYTES}}})_([0-9A-Za-z_-]{{43}})")
_MAX_NAME: Final = 100

logger = logging.getLogger(__name__)


class KeyStore(Protocol):
    """Keeps API keys. Every method may be called from several threads at once."""

    def add_key(self, key: StoredKey) -> None:
        """Store an API key.

        Raises:
            StoreError: its id is taken, or the store cannot be written.
        """
        ...

    def keys(self) -> list[StoredKey]:
        """Return all API keys, revoked ones too, oldest first.

        Raises:
            StoreError: the store cannot be read.
        """
        ...

    def revoke_key(self, key_id: str, at_us: int) -> bool:
        """Revoke a key; return False when no key of this id was open."""
        ...

    def close(self) -> None:
        """Release all connections."""
        ...


def hash_secret(secret: str, salt: bytes) -> bytes:
    """Return what is kept of a secret.

    One round of HMAC-SHA256 is enough: the secret is 256 random bits, which nobody can try through. A slow hash such as
    scrypt helps against guessing what people choose, and would cost every request what it costs the guesser.
    """
    return hmac.digest(salt, secret.encode("ascii", "replace"), hashlib.sha256)


def new_key(name: str, scopes: Sequence[str], *, now_us: int | None = None) -> tuple[str, StoredKey]:
    """Return a new key as its holder sends it, this once, and what the store keeps of it.

    Raises:
        ConfigError: no or an unknown scope, or a name that is empty, too long or not printable.
    """
    unknown = [scope for scope in scopes if scope not in SCOPES]
    if unknown or not scopes:
        given = f"unknown scope(s) {', '.join(map(repr, unknown))}" if unknown else "no scope was given"
        raise ConfigError(f"{given}; a key needs at least one of {', '.join(SCOPES)}")
    if not name.strip() or len(name) > _MAX_NAME or not name.isprintable():
        raise ConfigError(f"a key needs a printable name of 1 to {_MAX_NAME} characters (got {name[:_MAX_NAME]!r})")
    key_id, salt = secrets.token_hex(_ID_BYTES), secrets.token_bytes(_SALT_BYTES)
    secret = secrets.token_urlsafe(_SECRET_BYTES)
    created_us = time.time_ns() // 1_000 if now_us is None else now_us
    kept = StoredKey(
        key_id,
        name,
        tuple(scope for scope in SCOPES if scope in scopes),
        salt,
        hash_secret(secret, salt),
        created_us,
    )
    return f"{_PREFIX}_{key_id}_{secret}", kept


class KeyRing:
    """The keys that open, read from the store every few seconds by a thread of its own. No request waits for the store.

    open_store: called in that thread, again after every failure. max_age_s: how long a revoked key works at most
        while the store can be read. While it cannot, the keys that were read last go on working.
    """

    def __init__(self, open_store: Callable[[], KeyStore], *, max_age_s: float) -> None:
        self._open_store = open_store
        self._pause_s = max_age_s / 2
        self._keys: Mapping[str, StoredKey] | None = None
        self._problem = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read_again_and_again, name="api-keys", daemon=True)
        # Unknown and revoked keys are compared with this one, so that they take as long to refuse as a wrong secret.
        self._nobody = new_key("nobody", SCOPES[:1])[1]

    def start(self) -> None:
        """Begin to read; returns at once."""
        self._thread.start()

    def stop(self) -> None:
        """Stop reading; the thread closes the store."""
        self._stop.set()

    def find(self, presented: str) -> StoredKey | None:
        """Return the key that was presented, None if it does not open.

        Raises:
            StoreError: no keys could be read yet.
        """
        if self._keys is None:
            raise StoreError(f"the API keys cannot be read yet{self._problem}; try again shortly")
        form = _FORM.fullmatch(presented)
        key_id, secret = form.groups() if form else ("", "")
        kept = self._keys.get(key_id, self._nobody)
        is_right = hmac.compare_digest(hash_secret(secret, kept.salt), kept.hash)
        return kept if is_right and kept is not self._nobody else None

    def refresh(self, store: KeyStore) -> None:
        """Read the keys now.

        Raises:
            StoreError: the store cannot be read.
        """
        self._keys = {key.key_id: key for key in store.keys() if key.revoked_us is None}  # noqa: SIM118

    def _read_again_and_again(self) -> None:
        store: KeyStore | None = None
        try:
            while not self._stop.is_set():
                try:
                    store = store or self._open_store()
                    self.refresh(store)
                    self._problem = ""
                except StoreError as error:
                    if not self._problem:
                        logger.warning("API keys cannot be read: %s", error)
                    self._problem = f": {error}"
                self._stop.wait(self._pause_s)
        finally:
            # Also after a defect: better no key opens than one that was revoked.
            self._keys = None
            if store is not None:
                store.close()
