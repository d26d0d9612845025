"""Bounds every wait for the next piece of a stream, as a gevent.Timeout around each would."""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import TypeVar

import gevent

Item = TypeVar("Item")


def bounded(items: Generator[Item], seconds: float, error: Exception) -> Generator[Item]:
    """The items; raises the error in place of one that is not there after so many seconds.

    To start a timer for each wait would be a twentieth of a chunk's way through Weir. This one
    looks, when it has run out, since when there has been a wait, and is set again.
    """
    loop = gevent.get_hub().loop
    waiting = gevent.getcurrent()
    since: float | None = time.monotonic()
    timer = loop.timer(seconds)

    def ring() -> None:
        nonlocal timer
        left = seconds if since is None else since + seconds - time.monotonic()
        if left <= 0:
            waiting.throw(error)
            return
        timer.close()
        timer = loop.timer(left)
        timer.start(ring)

    timer.start(ring)
    try:
        for item in items:
            since = None
            yield item
            waiting, since = gevent.getcurrent(), time.monotonic()
    finally:
        timer.close()
        items.close()
