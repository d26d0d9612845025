"""One request's view of a flight: its events, its deadline, and its fallbacks."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import Protocol

from webapp.deadline_timer import DeadlineTimer
from webapp.errors import ProviderError, ProviderFailed, ProviderTimedOut, WeirError
from webapp.llm.cached import CachedAnswer, CachedStream
from webapp.llm.calls import CallOptions
from webapp.llm.flight import FlightLost, Listener, is_shared
from webapp.llm.messages import Answer, AnswerMetadata, CacheState, Chunk, FinalAnswer, StreamEvent
from webapp.llm.ports import Span

CHECK_INTERVAL = 1.0  # seconds


class Stream(Protocol):
    """An answer as it arrives: `next()` until it returns the FinalAnswer, then `close()`."""

    def next(self, within: float) -> StreamEvent | None:
        """The next event; None if there is none `within` seconds. Raises WeirError."""
        ...

    def close(self) -> None:
        """Leave; a call that no other listener needs is cancelled."""
        ...


class FlightSubscription:
    """Listens to a flight until it ends; joins another one if its leader is lost.

    `stale` returns a cached answer to use when every provider fails; close() ends `span`.
    """

    def __init__(
        self,
        streamed: bool,
        route: str,
        options: CallOptions,
        *,
        join: Callable[[], Listener],
        stale: Callable[[], CachedAnswer | None],
        span: Span,
    ) -> None:
        self._streamed = streamed
        self._route = route
        self._options = options
        self._join = join
        self._stale = stale
        self._span = span
        self._failed: ProviderError | None = None
        self._opened = False
        self._sent = False
        self._fallback: CachedStream | None = None
        self._next_check = time.monotonic() + CHECK_INTERVAL
        self._timer = DeadlineTimer(lambda: self._listener.wake.set())
        try:
            self._listener = join()
        except WeirError as error:
            span.end(error)
            raise

    def next(self, within: float) -> StreamEvent | None:
        until = time.monotonic() + within
        while True:
            if self._fallback:
                return self._fallback.next(within)
            try:
                event = self._next_event()
                if event is not None:
                    return event
                now = time.monotonic()
                if not self._sent and now >= self._options.deadline:
                    raise ProviderTimedOut("No answer before the deadline.")
            except FlightLost:
                self._listener.leave()
                self._listener = self._join()
                continue
            except ProviderError as error:
                self._failed = error
                self._fall_back(error)
                continue
            if now >= until:
                return None
            self._wait(now, until)

    def close(self) -> None:
        self._timer.close()
        self._listener.leave()
        self._span.end(self._failed, role="leader" if self._listener.leads else "follower")
        self._failed = None  # its traceback leads back here

    def _wait(self, now: float, until: float) -> None:
        if now >= self._next_check:
            self._next_check = now + CHECK_INTERVAL
            self._options.client.check()
        end = min(until, self._next_check)
        if not self._sent:
            end = min(end, self._options.deadline)
        self._timer.fire_by(end)
        self._listener.wake.wait()
        self._listener.wake.clear()

    def _next_event(self) -> StreamEvent | None:
        """The next event, if it has arrived. Raises the flight's error, or FlightLost."""
        flight = self._listener.flight
        if flight.begun and not self._opened:
            self._opened = True
            return self._metadata()
        chunk = self._listener.next_chunk()
        if chunk is not None:
            self._sent = self._streamed
            return chunk
        if flight.end is None:
            return None
        if isinstance(flight.end, Answer):
            return self._end(flight.end)
        raise self._failure(flight.end)

    def _end(self, answer: Answer) -> StreamEvent:
        if self._streamed and not self._sent and answer.content:
            # This stream joined a request that was not streamed.
            self._sent = True
            return Chunk("", answer.content)
        return FinalAnswer(answer, self._metadata())

    def _failure(self, end: Exception) -> Exception:
        """The error that this listener raises when its flight has failed."""
        if is_shared(end):
            if target := self._listener.flight.target:
                self._options.routed(*target)
            return copy.copy(end)
        if not isinstance(end, FlightLost) and self._listener.leads:
            return end
        if self._sent:
            return ProviderFailed(
                "The stream was interrupted: the worker that received it has died."
            )
        return FlightLost()

    def _fall_back(self, error: ProviderError) -> None:
        """Use an expired answer if every provider fails and nothing has been sent yet."""
        cached = None if self._opened or error.status < 500 else self._stale()
        if cached is None:
            raise error
        self._fallback = CachedStream(cached, CacheState.STALE, self._route, self._streamed)

    def _metadata(self) -> AnswerMetadata:
        flight = self._listener.flight
        state = self._options.uncached_state if self._listener.leads else CacheState.COALESCED
        waited = flight.waited if self._listener.leads else None
        return AnswerMetadata(
            state,
            self._route,
            flight.provider,
            flight.attempts,
            waited=waited,
            model=flight.model,
        )
