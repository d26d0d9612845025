"""What happens in a worker beside its requests: setting up, ticking every second, draining."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

import gevent
from gevent.lock import BoundedSemaphore

from webapp.errors import StoreUnavailable

log = logging.getLogger(__name__)

TICK_INTERVAL = 1.0
# Streams are ended this long before the grace period is over, so that their last event gets out.
STOP_TIMEOUT = 2.0


class Lifecycle:
    """Prepares the database once it is there, runs the ticks, and knows when to stop.

    `prepare` is done once, before anything else; `ticks` follow every second. Both may raise
    StoreUnavailable, and are then tried again. `ends` are done once, when all is over.
    """

    def __init__(
        self,
        prepare: Callable[[], None],
        *,
        ticks: Sequence[Callable[[], object]],
        ends: Sequence[Callable[[], object]],
        grace: float,
    ) -> None:
        self._prepare = prepare
        self._ticks = ticks
        self._ends = ends
        self._grace = grace
        self._ticking = BoundedSemaphore()
        self._drain_began: float | None = None
        self.prepared = False

    def start(self) -> None:
        """Prepare now if the database is there, and keep ticking in the background."""
        self._try_to_prepare()
        gevent.spawn(self._tick_forever)

    def drain(self) -> None:
        """Begin to stop: readiness turns, running requests have the grace period to finish."""
        if self._drain_began is None:
            self._drain_began = time.monotonic()

    @property
    def draining(self) -> bool:
        return self._drain_began is not None

    @property
    def grace_is_over(self) -> bool:
        """Whether what still runs must end now, while it can still say why."""
        if self._drain_began is None:
            return False
        patience = max(0.0, self._grace - STOP_TIMEOUT)
        return time.monotonic() - self._drain_began >= patience

    def stop(self) -> None:
        """The ends, and the last tick, once the one that may still run is over."""
        for end in self._ends:
            end()
        self._tick()

    def _try_to_prepare(self) -> None:
        try:
            self._prepare()
            self.prepared = True
        except StoreUnavailable as error:
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
        except StoreUnavailable:
            log.warning("The database is unavailable; counters are kept in memory")
        except Exception:
            log.exception("A periodic task failed")
