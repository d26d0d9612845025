"""A timer for what waits often and seldom for long: most waits start nothing."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import gevent


class DeadlineTimer:
    """Calls `ring` from gevent's loop.

    A gevent.Timeout for each wait would be a twentieth of a chunk's way through Weir. An alarm that
    is set again, to a later moment, stays as it is: whoever hears it looks whether it is time.
    """

    def __init__(self, callback: Callable[[], None]) -> None:
        self._callback = callback
        self._timer: Any = None
        self._fires_at = math.inf

    def fire_by(self, deadline: float) -> None:
        """Ring once, at this moment (of time.monotonic()) or before."""
        if deadline >= self._fires_at:
            return
        self.stop()
        self._fires_at = deadline
        self._timer = gevent.get_hub().loop.timer(max(0.0, deadline - time.monotonic()))
        self._timer.start(self._fire)

    def stop(self) -> None:
        """Do not ring."""
        if self._timer is not None:
            self._timer.close()
            self._timer = None
        self._fires_at = math.inf

    def _fire(self) -> None:
        self.stop()
        self._callback()
