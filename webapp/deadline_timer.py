"""A cheap timer for frequent short waits: most of them start no event loop timer."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import gevent


class DeadlineTimer:
    """Calls `callback` from gevent's event loop.

    A gevent.Timeout for each wait would take 5 % of the CPU time of a chunk. Setting a later
    deadline keeps the running timer, so the callback may come early and must check the time.
    """

    def __init__(self, callback: Callable[[], None]) -> None:
        self._callback = callback
        self._timer: Any = None
        self._fires_at = math.inf

    def fire_by(self, deadline: float) -> None:
        """Call the callback once, at this time (of time.monotonic()) or earlier."""
        if deadline >= self._fires_at:
            return
        self.stop()
        self._fires_at = deadline
        self._timer = gevent.get_hub().loop.timer(max(0.0, deadline - time.monotonic()))
        self._timer.start(self._fire)

    def close(self) -> None:
        """Cancel the callback, for good: its references go with it."""
        self.stop()
        self._callback = _nothing

    def stop(self) -> None:
        """Cancel the callback."""
        if self._timer is not None:
            self._timer.close()
            self._timer = None
        self._fires_at = math.inf

    def _fire(self) -> None:
        self.stop()
        self._callback()


def _nothing() -> None: ...
