"""Rows that a webhook is told of: claimed by one process each, tried again until they are taken."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from gevent.pool import Pool
from sqlalchemy import Column, Select

from webapp import webhooks
from webapp.errors import StoreUnavailable
from webapp.storage.database import Database

log = logging.getLogger(__name__)

CLAIM_TTL = 60.0  # seconds, after which a row of a process that died is anybody's
MAX_CONCURRENT = 4


class Deliveries:
    """`due` selects rows with `row_id`, `attempts` and `due_at`, columns of one table. `due_at`
    (Unix seconds) is null once a row is delivered or given up.

    `send` sends a row and returns the status of the response, 0 without one. `delivered` are
    further values of a row that was delivered. `what` names a row in the log.
    """

    def __init__(
        self,
        database: Database,
        due: Select[Any],
        row_id: Column[Any],
        attempts: Column[Any],
        due_at: Column[Any],
        send: Callable[[Any], int],
        what: str,
        delivered: Callable[[], Mapping[str, Any]] = dict,
    ) -> None:
        self._database = database
        self._due = due
        self._table = row_id.table
        self._id, self._attempts, self._due_at = row_id, attempts, due_at
        self._send = send
        self._what = what
        self._delivered = delivered
        self._sending = Pool(MAX_CONCURRENT)

    def tick(self) -> None:
        """Start to send the rows that are due, in the background. May raise StoreUnavailable."""
        free = self._sending.free_count()
        if not free:
            return
        query = self._due.where(self._due_at <= time.time()).order_by(self._due_at).limit(free)
        for row in self._database.read(lambda c: c.execute(query).mappings().all()):
            if self._claim(row):
                self._sending.spawn(self._deliver, row)

    def _claim(self, row: Mapping[Any, Any]) -> bool:
        """Claim the row for this process. False if another one has claimed it."""
        values = {
            self._attempts.name: row[self._attempts] + 1,
            self._due_at.name: time.time() + CLAIM_TTL,
        }
        claim = (
            self._table.update()
            .where(self._id == row[self._id], self._due_at == row[self._due_at])
            .values(values)
        )
        return bool(self._database.write(lambda connection: connection.execute(claim).rowcount))

    def _deliver(self, row: Mapping[Any, Any]) -> None:
        try:
            self._note(row, self._send(row))
        except StoreUnavailable:
            log.warning(
                "%s %s will be sent again: the database is unavailable", self._what, row[self._id]
            )

    def _note(self, row: Mapping[Any, Any], status: int) -> None:
        values: dict[str, Any] = {self._due_at.name: None}
        if webhooks.is_delivered(status):
            values |= self._delivered()
        elif pause := webhooks.pause_before_next(status, row[self._attempts] + 1):
            values[self._due_at.name] = time.time() + pause
        else:
            log.error(
                "%s %s was not delivered, giving up: webhook status %s",
                self._what, row[self._id], status or "not",
            )  # fmt: skip
        update = self._table.update().where(self._id == row[self._id]).values(values)
        self._database.write(lambda connection: connection.execute(update))
