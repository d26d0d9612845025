"""Runs the work for a caller in a greenlet of its own.

So whoever waits can notice that the client left, that the server must stop or that time is up,
and cancel the work wherever it stands; and so a stream can say "still nothing" while it waits.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import gevent
from gevent.queue import Empty, Queue

from webapp.errors import ProviderTimedOut
from webapp.llm.messages import Part
from webapp.llm.ports import Terms

Result = TypeVar("Result")

CHECK_EVERY = 1.0
PIECES_AHEAD = 64  # a slow client slows the provider, instead of filling the memory


def attend(work: Callable[[], Result], terms: Terms) -> Result:
    """The result of `work`, or what it raised, or what the caller's check raises.

    Raises ProviderTimedOut when the deadline of the terms has passed.
    """
    outcome: list[Result | Exception] = []
    greenlet = gevent.spawn(_record, work, outcome)
    try:
        while not outcome:
            remaining = terms.deadline - time.monotonic()
            if remaining <= 0:
                raise ProviderTimedOut("There was no answer before the deadline.")
            greenlet.join(min(CHECK_EVERY, remaining))
            if not outcome:
                terms.caller.check()
    finally:
        greenlet.kill(block=False)
    if isinstance(outcome[0], Exception):
        raise outcome[0]
    return outcome[0]


def _record(work: Callable[[], Result], outcome: list[Result | Exception]) -> None:
    try:
        outcome.append(work())
    except Exception as error:  # noqa: BLE001 raised again by whoever waits
        outcome.append(error)


class RelayedStream:
    """A stream produced in a greenlet: `next()` until it gives the Reply, then `close()`."""

    def __init__(self, produce: Callable[[], Iterator[Part]], terms: Terms) -> None:
        self._queue = Queue(maxsize=PIECES_AHEAD)
        self._caller = terms.caller
        self._next_check = time.monotonic() + CHECK_EVERY
        self._deadline: float | None = terms.deadline
        self._greenlet = gevent.spawn(self._produce, produce)

    def next(self, within: float) -> Part | None:
        """The next part, at last the Reply; None if nothing comes `within` seconds.

        Raises what the work raised, what the caller's check raises, and ProviderTimedOut where no
        first piece came by the deadline.
        """
        until = time.monotonic() + within
        while True:
            if time.monotonic() >= self._next_check:
                self._caller.check()
                self._next_check = time.monotonic() + CHECK_EVERY
            try:
                piece = self._queue.get(timeout=self._pause(until))
            except Empty:
                if self._deadline and time.monotonic() >= self._deadline:
                    raise ProviderTimedOut("The stream did not begin in time.") from None
                if time.monotonic() >= until:
                    return None
                continue
            self._deadline = None
            if isinstance(piece, Exception):
                raise piece
            part: Part = piece
            return part

    def close(self) -> None:
        """Cancel the work if it still runs."""
        self._greenlet.kill(block=False)

    def _pause(self, until: float) -> float:
        end = min(until, self._next_check, self._deadline or until)
        return max(0.0, end - time.monotonic())

    def _produce(self, produce: Callable[[], Iterator[Part]]) -> None:
        try:
            for piece in produce():
                self._queue.put(piece)
        except Exception as error:  # noqa: BLE001 raised again by next()
            self._queue.put(error)
