"""Deletes rows that have been kept long enough, a batch at a time, whatever table they are in."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import Connection, Table, select, tuple_

from webapp.storage.database import Database

BATCH = 1_000
INTERVAL = 600.0  # seconds

IsOld = Callable[[float], Sequence[Any]]
# A table, and which of its rows are old at a moment (Unix seconds).
Expired = tuple[Table, IsOld]


class Retention:
    """Looks every INTERVAL, and again at the next tick while there is more than a batch."""

    def __init__(self, database: Database, expired: Sequence[Expired]) -> None:
        self._database = database
        self._expired = expired
        self._next_at = 0.0

    def tick(self) -> None:
        """Delete a batch of each table where it is time. Raises StoreUnavailable."""
        if time.monotonic() < self._next_at:
            return
        gone = [self._database.write(_deletion(*expired)) for expired in self._expired]
        if max(gone, default=0) < BATCH:
            self._next_at = time.monotonic() + INTERVAL


def _deletion(
    table: Table, is_old: Callable[[float], Sequence[Any]]
) -> Callable[[Connection], int]:
    # PostgreSQL's DELETE knows no LIMIT.
    columns = list(table.primary_key.columns)
    old = select(*columns).where(*is_old(time.time())).limit(BATCH)
    key = columns[0] if len(columns) == 1 else tuple_(*columns)
    delete = table.delete().where(key.in_(old))
    return lambda connection: connection.execute(delete).rowcount
