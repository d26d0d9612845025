"""Coalesces identical concurrent requests of all processes into one provider call (singleflight).

A flight runs in its own greenlet and buffers all chunks. Listeners read at their own pace; the
flight is cancelled when the last one has left. One of several processes leads. The others follow
what it publishes through the coordinator, and take over when the leader is gone.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from itertools import count
from typing import Any

import gevent
from gevent.event import Event

from webapp import errors
from webapp.errors import ProviderFailed, WeirError, forget_traceback
from webapp.llm.messages import Answer, Chunk, Usage
from webapp.llm.ports import FlightCoordinator

POLL_INTERVAL = 0.025
HEARTBEAT_INTERVAL = 0.4
RENEWAL_BEATS = 25  # flights are renewed with each so many heartbeats: every ten seconds
FOLLOWER_TTL = 2.0  # seconds without a sign of a follower in another process: it has left
# A slow client slows the provider down instead of filling the memory.
MAX_CHUNKS_AHEAD = 64
MAX_LENGTH_AHEAD = 16 * 1024  # characters
MAX_STREAM_LENGTH = 64 * 1024 * 1024  # characters of one stream

# Number the flights and listeners of this process. The coordinator prefixes a flight's number with
# the process's name.
numbers = count(1)

# These errors come from the provider, so they hold for all identical requests.
SHARED_ERRORS: dict[str, type[WeirError]] = {
    kind.__name__: kind
    for kind in (
        errors.ModelNotFound,
        errors.ProviderRefusedRequest,
        errors.ProviderFailed,
        errors.ProviderRefusedWeir,
        errors.ProviderBusy,
        errors.ProvidersUnavailable,
        errors.ProviderTimedOut,
    )
}


Work = Callable[["Flight"], Answer]


class FlightLost(Exception):
    """The leader is gone, or failed for a reason of its own: another listener may lead."""


class Flight:
    """The chunks of one call so far; `end` is its answer or its error, until the last listener has
    left. `leader` is the number of the listener that the call is made for."""

    def __init__(self, key: str | None, coordinator: FlightCoordinator) -> None:
        self.id = str(next(numbers))
        self.key = key
        self.chunks: list[Chunk] = []
        self.provider = ""
        self.model: str | None = None
        self.target: tuple[str, str] | None = None
        self.attempts = 0
        self.waited: float | None = None
        self.begun = False
        self.end: Answer | Exception | None = None
        self.leads = False
        self.cancelled = False
        self.leader: int | None = None
        self.listeners: list[Listener] = []
        self.followed_at: float | None = None
        self._coordinator = coordinator
        self._published = 0
        self.length = 0
        self._room = Event()
        self.greenlet: gevent.Greenlet | None = None

    # Called by the leader's work.

    def begin(
        self, provider: str, attempts: int, model: str | None = None, waited: float | None = None
    ) -> None:
        """A provider has begun to answer with this model, after `waited` seconds."""
        self.provider, self.attempts, self.model, self.begun = provider, attempts, model, True
        self.waited = waited
        self._wake()

    def add(self, chunk: Chunk) -> None:
        """Add a chunk. Waits while all listeners lag behind, of this process and of others."""
        self.length += chunk.length
        if self.length > MAX_STREAM_LENGTH:
            raise ProviderFailed("The provider's answer is too large.")
        self.chunks.append(chunk)
        self._wake()
        self.publish()
        while (
            self.listeners
            and not self.is_followed
            and all(reader.lags for reader in self.listeners)
        ):
            self._room.clear()
            self._room.wait(1.0)
        if self.cancelled:
            # The kill may come later than a wake-up, after which much can be read without a wait.
            raise gevent.GreenletExit

    def publish(self) -> None:
        """Send new entries to the followers in other processes."""
        if self.key is not None and self.followed_at is not None:
            new = self.unpublished()
            if new:
                self._coordinator.publish(self.key, self.id, new)

    def unpublished(self) -> list[Any]:
        """The entries that were not published yet; they count as published from now on."""
        new = [_chunk_entry(chunk) for chunk in self.chunks[self._published :]]
        if new and not self._published:
            new.insert(0, self.beginning)
        self._published = len(self.chunks)
        return new

    @property
    def beginning(self) -> list[Any]:
        """The entry that comes before all others."""
        return ["begin", self.provider, self.attempts, self.model]

    def finish(self, end: Answer | Exception) -> None:
        """Set the end of the flight. The first end is final."""
        if self.end is None:
            self.end = end
            self._wake()

    # Called by listeners.

    def made_room(self) -> None:
        self._room.set()

    @property
    def is_followed(self) -> bool:
        return bool(self.followed_at and time.monotonic() - self.followed_at < FOLLOWER_TTL)

    def _wake(self) -> None:
        for listener in self.listeners:
            listener.wake.set()


class Listener:
    """A request that reads a flight, and its position in it.

    `work` makes the call if this listener leads; `check` raises if it may not lead. A leader is
    known by its number: references in both directions would keep the whole answer in memory.
    """

    def __init__(
        self,
        flight: Flight,
        work: Work,
        check: Callable[[], None],
        leave: Callable[[Listener], None],
    ) -> None:
        self.number = next(numbers)
        self.flight = flight
        self.work = work
        self.check = check
        self.wake = Event()
        self._position = 0
        self._length = 0
        self._leave = leave

    @property
    def leads(self) -> bool:
        """Whether the provider is called for this listener, which pays for the call."""
        return self.flight.leader == self.number

    @property
    def lags(self) -> bool:
        """Whether it is so far behind that the call waits for it."""
        flight = self.flight
        return (
            len(flight.chunks) - self._position > MAX_CHUNKS_AHEAD
            or flight.length - self._length > MAX_LENGTH_AHEAD
        )

    def next_chunk(self) -> Chunk | None:
        """The next chunk, if it has arrived."""
        if self._position == len(self.flight.chunks):
            return None
        lagged = self.lags
        chunk = self.flight.chunks[self._position]
        self._position += 1
        self._length += chunk.length
        if lagged and not self.lags:
            self.flight.made_room()
        return chunk

    def leave(self) -> None:
        self._leave(self)


class Flights:
    """The flights of this process."""

    def __init__(self, coordinator: FlightCoordinator) -> None:
        self._coordinator = coordinator
        self._running: dict[str, Flight] = {}
        self._all: set[Flight] = set()
        self._heartbeat: gevent.Greenlet | None = None

    def join(self, key: str | None, work: Work, check: Callable[[], None]) -> Listener:
        """Join the flight of this key, or start one with `work`.

        Without a key the flight is not shared. Joining a running flight first calls `check`, and
        raises what that raises.
        """
        flight = self._running.get(key) if key else None
        if flight is not None:
            check()
            flight = self._running.get(key) if key else None
        if flight is None:
            flight = Flight(key, self._coordinator)
            if key:
                self._running[key] = flight
        listener = Listener(flight, work, check, self._left)
        flight.listeners.append(listener)
        if flight.greenlet is None:
            self._all.add(flight)
            flight.greenlet = gevent.spawn(self._fly, flight, listener)
        return listener

    def is_running(self, key: str) -> bool:
        """Whether a request with this key would join a flight, in this process or another."""
        return key in self._running or self._coordinator.is_led(key)

    def close(self) -> None:
        """Cancel all running flights, so that other processes can take over at once."""
        gevent.killall([flight.greenlet for flight in self._all if flight.greenlet], timeout=1)
        if self._heartbeat:
            self._heartbeat.kill()
            self._coordinator.close()

    def _left(self, listener: Listener) -> None:
        flight = listener.flight
        if listener in flight.listeners:
            flight.listeners.remove(listener)
        if flight.greenlet is None:
            _let_go(flight)
        elif flight.listeners or flight.is_followed:
            flight.made_room()
        else:
            self._cancel(flight)

    def _cancel(self, flight: Flight) -> None:
        """Stop the work, unless it has finished."""
        if flight.end is None and flight.greenlet:
            self._forget(flight)
            self._all.discard(flight)
            flight.cancelled = True
            flight.greenlet.kill(block=False)
            flight.greenlet = None

    def _forget(self, flight: Flight) -> None:
        if flight.key and self._running.get(flight.key) is flight:
            del self._running[flight.key]

    def _fly(self, flight: Flight, first: Listener) -> None:
        end: Any = None
        try:
            if self._follow_if_led(flight, first):
                return
            flight.leads = True
            leader = first
            if flight.listeners:
                leader = flight.listeners[0]
                flight.leader = leader.number
            answer = leader.work(flight)
            self._forget(flight)
            flight.finish(answer)
            end = _answer_entry(answer, flight.attempts)
        except WeirError as error:
            end = _error_entry(error, flight.target)
            flight.finish(error)
        except Exception as error:  # noqa: BLE001 raised again by the listener it concerns
            flight.finish(error)
        finally:
            self._forget(flight)
            self._all.discard(flight)
            flight.greenlet = None
            if isinstance(flight.end, WeirError):
                forget_traceback(flight.end)
            _let_go(flight)
            if flight.key:
                last_entries = partial(_last_entries, flight, end)
                self._coordinator.finish(flight.key, flight.id, last_entries)

    def _follow_if_led(self, flight: Flight, first: Listener) -> bool:
        """Follow the flight that another process leads, to its end; False if none leads it.

        Raises FlightLost if its leader is lost after the first chunks.
        """
        if not flight.key:
            return False
        self._keep_heartbeat()
        while leader := self._coordinator.claim(flight.key, flight.id):
            self._check(flight, first)
            if self._follow(flight, flight.key, leader):
                return True
            if flight.chunks:
                raise FlightLost
        return False

    @staticmethod
    def _check(flight: Flight, first: Listener) -> None:
        try:
            first.check()
        except WeirError:
            flight.leader = first.number  # the error is not shared with other listeners
            raise

    def _follow(self, flight: Flight, key: str, leader: str) -> bool:
        position = 0
        while True:
            progress = self._coordinator.poll(key, leader, position)
            for entry in progress.entries:
                position += 1
                if self._apply(flight, entry):
                    return True
            if not progress.led and not progress.entries:
                return False
            gevent.sleep(POLL_INTERVAL)

    @staticmethod
    def _apply(flight: Flight, entry: Any) -> bool:
        """Apply a published entry to a follower's flight; True if it was the last one."""
        kind, *values = entry
        if kind == "begin":
            flight.begin(*values)
        elif kind == "piece":
            flight.add(Chunk(*values))
        elif kind == "answer":
            fields, usage, attempts = values
            answer = Answer(usage=Usage(*usage), **fields)
            flight.begin(answer.provider, attempts, flight.model)
            flight.finish(answer)
            return True
        elif kind == "error":
            # An earlier version writes fewer values.
            name, message, retry_after, details, target, said = [*values, None, None, None][:6]
            error = SHARED_ERRORS[name](message, retry_after=retry_after, details=details)
            error.provider_status, error.provider_message = said or (None, None)
            flight.target = target
            flight.finish(error)
            return True
        return False

    def _keep_heartbeat(self) -> None:
        if self._heartbeat is None:
            self._coordinator.heartbeat()
            self._heartbeat = gevent.spawn(self._heartbeat_forever)

    def _heartbeat_forever(self) -> None:
        for beat in count(1):
            gevent.sleep(HEARTBEAT_INTERVAL)
            followed = self._coordinator.heartbeat()
            if beat % RENEWAL_BEATS == 0:
                self._coordinator.renew(
                    [(flight.key, flight.id) for flight in self._all if flight.leads and flight.key]
                )
            for key in followed.difference(flight.key for flight in self._all if flight.leads):
                # This flight has ended, but the message that says so was lost.
                self._coordinator.relinquish(key)
            for flight in list(self._all):
                if flight.leads and flight.key in followed:
                    flight.followed_at = time.monotonic()
                    flight.publish()
                elif not flight.listeners and not flight.is_followed:
                    self._cancel(flight)


def _chunk_entry(chunk: Chunk) -> list[Any]:
    return ["piece", chunk.data, chunk.text, chunk.begins]


def _answer_entry(answer: Answer, attempts: int) -> list[Any]:
    fields = {
        name: getattr(answer, name) for name in ("content", "model", "provider", "cost_usd", "body")
    }
    return ["answer", fields, answer.usage.totals, attempts]


def _let_go(flight: Flight) -> None:
    """Let go of the end of a flight that has no listeners: an error's traceback leads back here."""
    if not flight.listeners:
        flight.end = None


def is_shared(error: Exception) -> bool:
    """Whether an error of the leader's call holds for all identical requests."""
    return type(error).__name__ in SHARED_ERRORS and not getattr(error, "leader_only", False)


def _error_entry(error: WeirError, target: tuple[str, str] | None) -> list[Any] | None:
    """The entry of an error; None if it is not shared with followers."""
    if not is_shared(error):
        return None
    said = [error.provider_status, error.provider_message]
    return ["error", error.name, error.message, error.retry_after, error.details, target, said]


def _last_entries(flight: Flight, end: list[Any] | None) -> list[Any]:
    """The last entries of a flight; empty if another process should lead."""
    if not end:
        return []
    new = [*flight.unpublished(), end]
    return new if flight.chunks or not flight.begun else [flight.beginning, *new]
