"""Whether processes that work on batches alone (`flask worker`) are there."""

from __future__ import annotations

import time
from functools import partial

from webapp.errors import StoreUnavailable
from webapp.metering.heartbeats import batch_worker_seen
from webapp.storage.database import Database

SEEN_WITHIN = 30.0  # seconds after which serving processes take the work over
ASK_INTERVAL = 3.0  # seconds


class WorkerPresence:
    """Tells a serving process whether it must work on batches itself."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._asked_at = -ASK_INTERVAL
        self._works_here = False

    def works_here(self, *, ask: bool = False) -> bool:
        """True while no worker was seen. Unless `ask`, the database is asked now and then only."""
        if ask or time.monotonic() - self._asked_at >= ASK_INTERVAL:
            self._asked_at = time.monotonic()
            try:
                seen = self._database.read(partial(batch_worker_seen, within=SEEN_WITHIN))
            except StoreUnavailable:
                return False  # there is nothing to work on either
            self._works_here = not seen
        return self._works_here
