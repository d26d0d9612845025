"""Bounds every wait for the next piece of a stream, as a gevent.Timeout around each would."""

from __future__ import annotations

import math
import time
from collections.abc import Generator
from typing import TypeVar

import gevent

from webapp.alarm import Alarm

Item = TypeVar("Item")


def bounded(items: Generator[Item], seconds: float, error: Exception) -> Generator[Item]:
    """The items; raises the error in place of one that is not there after so many seconds."""
    waiting = gevent.getcurrent()
    until = time.monotonic() + seconds

    def ring() -> None:
        if time.monotonic() < until:
            alarm.by(until)
        else:
            waiting.throw(error)

    alarm = Alarm(ring)
    alarm.by(until)
    try:
        for item in items:
            until = math.inf  # nobody waits
            yield item
            waiting, until = gevent.getcurrent(), time.monotonic() + seconds
            alarm.by(until)
    finally:
        alarm.stop()
        items.close()
