"""What a serving process does for batches: tells workers of them, or works itself without any."""

from __future__ import annotations

from collections.abc import Callable

import gevent

from webapp.batches.batch_store import BatchStore
from webapp.batches.executor import Executor
from webapp.errors import StoreUnavailable

SECONDS = 45.0  # of one run


class BatchWork:
    """`ring` tells workers of a batch; `works_here` says whether this process has to work."""

    def __init__(
        self,
        executor: Executor,
        batches: BatchStore,
        ring: Callable[[str], object],
        works_here: Callable[..., bool],
    ) -> None:
        self._executor = executor
        self._batches = batches
        self._ring = ring
        self._works_here = works_here
        self._running: gevent.Greenlet | None = None

    def tick(self, *, draining: bool) -> None:
        """Begin to work, if there is something to do, and leave it to workers once one is there.

        May raise StoreUnavailable.
        """
        if draining:
            self._executor.begin_nothing_more()
        elif not self._works_here():
            self._executor.leave_to_others()
        elif self._running is None and self._batches.any_active():
            self._begin()

    def announce(self, batch_id: str) -> None:
        """There is something new to do for a batch. Never raises."""
        try:
            if self._works_here(ask=True):
                if self._running is None:
                    self._begin()
                self._executor.wake()
                return
        except StoreUnavailable:
            pass
        self._ring(batch_id)

    def _begin(self) -> None:
        self._running = gevent.spawn(self._executor.run_for, SECONDS)
        self._running.link(self._ended)

    def _ended(self, _: gevent.Greenlet) -> None:
        self._running = None
