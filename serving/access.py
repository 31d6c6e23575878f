"""Who may call: everyone on this machine, or holders of an API key with the scope that a call needs."""

import ipaddress
from collections.abc import Mapping, Sequence
from functools import lru_cache

from recsys.errors import ConfigError
from serving.keys import KeyRing
from serving.logs import Trace, current_trace
from serving.refusals import Refusal
from serving.settings import Settings

_UNAUTHORIZED = {"WWW-Authenticate": 'Bearer realm="recsys"'}
_FORWARDED = (b"forwarded", b"x-forwarded-for", b"x-real-ip")


def is_loopback(host: str) -> bool:
    """Return whether an address or name can be reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def needs_keys(settings: Settings) -> bool:
    """Return whether every call needs a key.

    Raises:
        ConfigError: keys are switched off, and the host is not loopback.
    """
    if settings.auth == "off" and not is_loopback(settings.host):
        raise ConfigError(
            f"RECSYS_AUTH=off is allowed on a loopback host only, and RECSYS_HOST is {settings.host!r}; leave "
            "RECSYS_AUTH out and create a key (recsys keys create), or listen on 127.0.0.1"
        )
    return settings.auth == "on" or not is_loopback(settings.host)


class Access:
    """Checks callers. keys: None where only callers from elsewhere are refused. is_open: not even they."""

    def __init__(self, keys: KeyRing | None, *, is_open: bool = False) -> None:
        self._keys = keys
        self._is_open = is_open

    def check(self, scopes: Sequence[str]) -> None:
        """Return when the current request may go on.

        scopes: one of these suffices.

        Raises:
            Refusal: 401 `unauthorized` without a key that opens, 403 `forbidden` with one that lacks the scopes.
            StoreError: the keys could not be read yet.
        """
        if self._is_open:
            return
        trace = current_trace.get()
        if self._keys is None:
            if trace is not None and _is_from_elsewhere(trace):
                raise Refusal(
                    401,
                    "unauthorized",
                    "without API keys this service answers callers on its own machine only; start it with "
                    "RECSYS_AUTH=on and create a key (recsys keys create)",
                    headers=_UNAUTHORIZED,
                )
            return
        presented = "" if trace is None else _presented(trace.headers)
        if not presented:
            raise Refusal(
                401,
                "unauthorized",
                "no API key was sent; send one as Authorization: Bearer KEY or as X-API-Key: KEY",
                headers=_UNAUTHORIZED,
            )
        key = self._keys.find(presented)
        if key is None:
            raise Refusal(
                401,
                "unauthorized",
                "the API key does not open this service; check it, or create a new one (recsys keys create)",
                headers=_UNAUTHORIZED,
            )
        if trace is not None:
            trace.key_id = key.key_id
        if not set(scopes) & set(key.scopes):
            raise Refusal(
                403,
                "forbidden",
                f"this call needs a key with the scope {' or '.join(scopes)}, and the key that was sent has "
                f"{', '.join(key.scopes)}",
            )


def _presented(headers: Mapping[bytes, bytes]) -> str:
    kind, _, key = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
    if kind.lower() == "bearer" and key.strip():
        return key.strip()
    return headers.get(b"x-api-key", b"").decode("latin-1").strip()


def _is_from_elsewhere(trace: Trace) -> bool:
    return any(name in trace.headers for name in _FORWARDED) or _is_remote(trace.client)


@lru_cache(1_024)
def _is_remote(address: str) -> bool:
    """Return whether this is an address of another machine; False for what is no address, such as a Unix socket's."""
    try:
        return not ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False
