"""The validated tables that everything downstream trusts."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import polars as pl

from recsys.schema import Col


@dataclass(frozen=True)
class Dataset:
    """A catalogue and what people did with it, checked once at the door.

    The tables have the columns and dtypes of `recsys.schema`; every `item_id` in interactions and impressions is a
    row of `items`; `items.item_id` and `users.user_id` are unique. interactions are in order of (timestamp, order in
    the file); impressions keep the rows of a request together.

    notes: what was tolerated while loading, with counts.
    """

    items: pl.DataFrame
    interactions: pl.DataFrame
    impressions: pl.DataFrame | None = None
    users: pl.DataFrame | None = None
    name: str = "data"
    format: str = "tables"
    notes: Mapping[str, int] = field(default_factory=dict)

    def __repr__(self) -> str:
        shown = f" × {self.impressions.height} impressions" if self.impressions is not None else ""
        return (
            f"Dataset({self.name}: {self.n_users} users × {self.items.height} items × "
            f"{self.interactions.height} interactions{shown})"
        )

    @property
    def n_users(self) -> int:
        return len(self.user_ids())

    def user_ids(self) -> list[str]:
        """Return every user that did something, was shown something, or is in the users table; sorted."""
        parts = [self.interactions[Col.USER_ID]]
        if self.impressions is not None:
            parts.append(self.impressions[Col.USER_ID])
        if self.users is not None:
            parts.append(self.users[Col.USER_ID])
        return pl.concat(parts).unique().sort().to_list()

    def fingerprint(self) -> str:
        """Return a SHA-256 over all tables' columns and rows, the same for the same content and version of Polars."""
        digest = hashlib.sha256()
        for name in ("items", "interactions", "impressions", "users"):
            table: pl.DataFrame | None = getattr(self, name)
            digest.update(name.encode())
            if table is not None:
                digest.update(repr(table.schema).encode())
                digest.update(table.hash_rows(seed=0).to_numpy().tobytes())
        return digest.hexdigest()
