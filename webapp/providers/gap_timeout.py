"""Limits each wait for the next item of a stream, as a gevent.Timeout around each would."""

from __future__ import annotations

import math
import time
from collections.abc import Generator
from typing import Any, TypeVar

import gevent

from webapp.deadline_timer import DeadlineTimer

Item = TypeVar("Item")


def with_gap_timeout(items: Generator[Item], seconds: float, error: Exception) -> Generator[Item]:
    """The items; raises the error if one does not arrive within so many seconds."""
    waiting: Any = gevent.getcurrent()
    until = time.monotonic() + seconds

    def fire() -> None:
        if time.monotonic() < until:
            timer.fire_by(until)
        else:
            waiting.throw(error)

    timer = DeadlineTimer(fire)
    timer.fire_by(until)
    try:
        for item in items:
            until = math.inf  # no wait is running
            yield item
            waiting, until = gevent.getcurrent(), time.monotonic() + seconds
            timer.fire_by(until)
    finally:
        timer.close()
        waiting = None  # a greenlet that was killed refers to this frame
        items.close()
