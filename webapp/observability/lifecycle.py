"""The lifecycle of a worker, in addition to its requests: start, periodic tasks, drain, stop."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence

import gevent
from gevent.lock import BoundedSemaphore

from webapp.errors import StoreUnavailable

log = logging.getLogger(__name__)

TICK_INTERVAL = 1.0  # seconds
# Streams are ended this long (seconds) before the grace period, to send their last event in time.
STOP_TIMEOUT = 2.0


class Lifecycle:
    """Prepares the database, runs periodic tasks, and tracks the drain.

    `starts` run once; then `prepare` does, and `ticks` every second after it. These two may raise
    StoreUnavailable, and are then tried again. `finishes` run with finish_request(). `ends` run
    once, when the worker stops.
    """

    def __init__(
        self,
        prepare: Callable[[], None],
        *,
        starts: Sequence[Callable[[], object]] = (),
        ticks: Sequence[Callable[[], object]],
        finishes: Sequence[Callable[[], object]] = (),
        ends: Sequence[Callable[[], object]],
        grace: float,
    ) -> None:
        self._prepare = prepare
        self._starts = starts
        self._ticks = ticks
        self._finishes = finishes
        self._ends = ends
        self._grace = grace
        self._ticking = BoundedSemaphore()
        self._drain_began: float | None = None
        self.prepared = False

    def start(self) -> None:
        """Prepare now if the database is available, and start the periodic tasks."""
        for start in self._starts:
            start()
        self._try_to_prepare()
        gevent.spawn(self._tick_forever)

    def drain(self) -> None:
        """Start to drain: not ready any more; running requests may finish in the grace period."""
        if self._drain_began is None:
            self._drain_began = time.monotonic()

    @property
    def draining(self) -> bool:
        return self._drain_began is not None

    @property
    def grace_left(self) -> float:
        """The seconds after which running streams must end, while they can still send an error."""
        if self._drain_began is None:
            return math.inf
        return self._drain_began + self._grace - STOP_TIMEOUT - time.monotonic()

    @property
    def grace_is_over(self) -> bool:
        return self.grace_left <= 0

    def finish_request(self) -> None:
        """Write what a request has left to the ticks, where none may follow."""
        for finish in self._finishes:
            self._do(finish)

    def stop(self) -> None:
        """Run the ends, then a last tick, after any tick that still runs."""
        for end in self._ends:
            end()
        self._tick()

    def _try_to_prepare(self) -> None:
        try:
            self._prepare()
            self.prepared = True
        except StoreUnavailable as error:
            if not error.logged:
                log.warning(
                    "The database is unreachable; retrying every second: %s",
                    error.__cause__ or "connection failed a moment ago",
                )

    def _tick_forever(self) -> None:
        while True:
            gevent.sleep(TICK_INTERVAL)
            if self.prepared:
                self._tick()
            else:
                self._try_to_prepare()

    def _tick(self) -> None:
        with self._ticking:
            for tick in self._ticks:
                self._do(tick)

    @staticmethod
    def _do(tick: Callable[[], object]) -> None:
        try:
            tick()
        except StoreUnavailable as error:
            if not error.logged:
                log.warning("The database is unavailable; counters are kept in memory")
        except Exception:
            log.exception("A periodic task failed")
