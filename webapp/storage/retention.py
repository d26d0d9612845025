"""Deletes expired rows of any table, in batches."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import Connection, Table, select, tuple_

from webapp.storage.database import Database

BATCH = 1_000
INTERVAL = 600.0  # seconds

IsOld = Callable[[float], Sequence[Any]]
# A table, and the condition of its expired rows at a time (Unix seconds).
Expired = tuple[Table, IsOld]


class Retention:
    """Runs every INTERVAL, and again at the next tick while a full batch was deleted."""

    def __init__(self, database: Database, expired: Sequence[Expired]) -> None:
        self._database = database
        self._expired = expired
        self._next_at = 0.0

    def tick(self) -> None:
        """Delete a batch of each table, if due. Raises StoreUnavailable."""
        if time.monotonic() < self._next_at:
            return
        deleted = [self._database.write(_deletion(*expired)) for expired in self._expired]
        if max(deleted, default=0) < BATCH:
            self._next_at = time.monotonic() + INTERVAL


def _deletion(
    table: Table, is_old: Callable[[float], Sequence[Any]]
) -> Callable[[Connection], int]:
    # PostgreSQL's DELETE has no LIMIT.
    columns = list(table.primary_key.columns)
    old = select(*columns).where(*is_old(time.time())).limit(BATCH)
    key = columns[0] if len(columns) == 1 else tuple_(*columns)
    delete = table.delete().where(key.in_(old))
    return lambda connection: connection.execute(delete).rowcount
