"""Times that callers name: how far ahead of the service's own clock they may lie."""

from collections.abc import Sequence
from typing import Final

from recsys.errors import RequestError
from serving.sessions import SessionItem

MAX_CLOCK_SKEW_US: Final = 5 * 60 * 1_000_000


def check_times(entries: Sequence[SessionItem], now_us: int) -> None:
    """Refuse a history that names a time too far ahead; see `check_time`."""
    for place, entry in enumerate(entries):
        if entry.timestamp_us is not None:
            check_time(entry.timestamp_us, now_us, f"history.{place}.timestamp")


def check_time(timestamp_us: int, now_us: int, field_name: str) -> None:
    """Refuse a time too far ahead.

    Raises:
        RequestError: it lies more than five minutes ahead of now.
    """
    if timestamp_us > now_us + MAX_CLOCK_SKEW_US:
        ahead_s = (timestamp_us - now_us) // 1_000_000
        raise RequestError(
            f"{field_name} lies {ahead_s} seconds in the future; at most {MAX_CLOCK_SKEW_US // 1_000_000} are allowed; "
            "check the sender's clock and whether the number is in seconds or milliseconds",
            field=field_name,
        )
