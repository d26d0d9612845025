"""Circuit breakers of the targets' operations; with Redis, all workers share them.

A circuit is a target and an operation. `threshold` failed requests in a row within a minute open
it for `pause` seconds: for everybody, if two keys are among them or the target was not reached,
else for that key alone, as its requests may be the cause. Then one call is let through as a probe:
if it succeeds, the breaker closes, else the pause starts again. Each process reads the shared
state twice a second, so a closed breaker costs a call nothing.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any

from gevent.lock import BoundedSemaphore

from webapp.storage.redis_commands import RedisUnavailable, Script

if TYPE_CHECKING:
    from webapp.storage.redis_client import RedisClient

WINDOW = 60.0
REFRESH_INTERVAL = 0.5
TRIPPED_TTL = 3_600_000  # ms for which a breaker stays half-open without calls
MAX_REMEMBERED = 1_000
PROBE_TTL = 30.0  # seconds after which a probe without a result is given up
EVERYBODY = "*"

KEY = "weir:circuit:{%s}:%s"
TRIPPED = "weir:circuits:tripped"  # the circuits that are not closed for everybody
# KEYS: failures, tripped. ARGV: who failed (EVERYBODY: it was not reached), a unique text,
# threshold, window, pause, memory (ms). `failures` is a sorted set of `who:unique` by time;
# `tripped` a hash: who is kept away, until when (ms), and 0 while a probe may be made.
# Reply: who is kept away now, or an empty text.
FAIL = Script(
    """
local now = redis.call('TIME')
local ms = now[1] * 1000 + math.floor(now[2] / 1000)
local who, most = ARGV[1], tonumber(ARGV[3])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', ms - ARGV[4])
redis.call('ZADD', KEYS[1], ms, who .. ':' .. ARGV[2])
redis.call('ZREMRANGEBYRANK', KEYS[1], 0, -most - 1)
redis.call('PEXPIRE', KEYS[1], ARGV[4])
local away = ''
if redis.call('HEXISTS', KEYS[2], '*') == 1 then away = '*'
elseif redis.call('HEXISTS', KEYS[2], who) == 1 then away = who end
if redis.call('ZCARD', KEYS[1]) >= most then
  if away == '' then away = who end
  for _, member in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
    local one = string.match(member, '^(.-):')
    if one ~= who or one == '*' then away = '*' break end
  end
end
if away ~= '' then
  redis.call('HSET', KEYS[2], away, ms + ARGV[5])
  redis.call('PEXPIRE', KEYS[2], ARGV[6])
end
if away == '*' then redis.call('DEL', KEYS[1]) end
return away
""",
    keys=2,
)


@dataclass(slots=True)
class Pause:
    """How long somebody is kept away from a circuit. Times are monotonic."""

    until: float
    probing_until: float = 0.0


@dataclass(slots=True)
class Circuit:
    """This process's view of one circuit: who failed lately, and who is kept away."""

    failures: deque[tuple[float, str]] = field(default_factory=deque)
    failures_elsewhere: bool = False
    pauses: dict[str, Pause] = field(default_factory=dict)
    refreshed_at: float = float("-inf")
    refreshing: BoundedSemaphore = field(default_factory=BoundedSemaphore)

    def pause_of(self, who: str) -> tuple[str, Pause] | None:
        """The pause that concerns somebody, and whose it is: everybody's comes first."""
        for one in (EVERYBODY, who):
            if one in self.pauses:
                return one, self.pauses[one]
        return None

    @property
    def state(self) -> str:
        pause = self.pauses.get(EVERYBODY)
        if pause is None:
            return "closed"
        return "open" if time.monotonic() < pause.until else "half-open"


@dataclass(frozen=True, slots=True)
class OpenCircuit:
    """A circuit that `who` is kept away from: EVERYBODY, or one key. In `probe_in` seconds a call
    is let through as a probe; at 0 the next one is."""

    circuit: str
    who: str
    probe_in: float


class CircuitBreakers:
    """The breakers of all circuits that this process has used. `who` is the key of a request."""

    def __init__(self, redis: RedisClient | None, threshold: int, pause: float) -> None:
        self._redis = redis
        self._threshold = threshold
        self._pause = pause
        self._circuits: dict[str, Circuit] = {}
        self._numbers = count()

    def allows(self, circuit: str, who: str) -> bool:
        view = self._refreshed(circuit)
        found = view.pause_of(who) if view.pauses else None
        if found is None:
            return True
        now = time.monotonic()
        return now >= found[1].until and self._may_probe(circuit, *found, now)

    def answered(self, circuit: str, who: str) -> None:
        """An answer has begun: a probe has succeeded. Only its end ends a row of failures."""
        if self._circuit(circuit).pauses:
            self._close(circuit, who)

    def succeeded(self, circuit: str, who: str) -> None:
        view = self._circuit(circuit)
        if view.failures or view.failures_elsewhere:
            view.failures.clear()
            view.failures_elsewhere = False
            self._shared("DEL", KEY % (circuit, "failures"))
        if view.pauses:
            self._close(circuit, who)

    def failed(
        self, circuit: str, who: str, retry_after: float | None = None, *, unreachable: bool = False
    ) -> None:
        """A request failed, after all its attempts."""
        view, now = self._circuit(circuit), time.monotonic()
        pause = max(self._pause, min(retry_after or 0.0, WINDOW))
        failed = EVERYBODY if unreachable else who
        view.failures.append((now, failed))
        while view.failures[0][0] <= now - WINDOW or len(view.failures) > self._threshold:
            view.failures.popleft()
        away = self._count_shared_failure(circuit, failed, pause)
        if away is None:
            away = self._kept_away(view, failed)
        if away:
            view.pauses[away] = Pause(now + pause)
            self._shared("DEL", KEY % (circuit, f"probe:{away}"))
        if away == EVERYBODY:
            view.failures.clear()
            self._shared("SADD", TRIPPED, circuit)

    def abandoned(self, circuit: str, who: str) -> None:
        found = self._circuit(circuit).pause_of(who)
        if found:
            found[1].probing_until = 0.0
            self._shared("DEL", KEY % (circuit, f"probe:{found[0]}"))

    def opens_in(self, circuit: str, who: str) -> float:
        found = self._refreshed(circuit).pause_of(who)
        end = max(found[1].until, found[1].probing_until) if found else 0.0
        return max(0.0, end - time.monotonic())

    def is_open_for_all(self, circuit: str) -> bool:
        return EVERYBODY in self._circuit(circuit).pauses

    def states(self) -> dict[str, dict[str, Any]]:
        """The state of each circuit for everybody, of an open one the seconds until a probe is let
        through, and the number of keys that are kept away from it alone."""
        shown: dict[str, dict[str, Any]] = {}
        elsewhere = {name.decode() for name in self._shared("SMEMBERS", TRIPPED) or ()}
        for circuit in sorted(elsewhere.union(self._circuits)):
            view = self._refreshed(circuit)
            shown[circuit] = {"state": view.state}
            if view.state == "closed" and circuit in elsewhere:
                self._shared("SREM", TRIPPED, circuit)
            if view.state == "open":
                shown[circuit]["probe_in_s"] = round(self.opens_in(circuit, EVERYBODY), 1)
            elif keys := len(view.pauses.keys() - {EVERYBODY}):
                shown[circuit]["paused_keys"] = keys
        return shown

    def open_circuits(self, circuits: Iterable[str]) -> list[OpenCircuit]:
        """All that somebody is kept away from: of those that this process has used, of these, and
        of those that any process keeps everybody away from. Where everybody is, keys are not
        listed."""
        elsewhere = {name.decode() for name in self._shared("SMEMBERS", TRIPPED) or ()}
        found = []
        for circuit in sorted(elsewhere.union(self._circuits, circuits)):
            pauses = self._refreshed(circuit).pauses
            for who in [EVERYBODY] if EVERYBODY in pauses else sorted(pauses):
                pause = pauses[who]
                end = max(pause.until, pause.probing_until)
                found.append(OpenCircuit(circuit, who, max(0.0, end - time.monotonic())))
        return found

    def _kept_away(self, view: Circuit, failed: str) -> str:
        """Who is kept away after this failure, counted in this process alone."""
        if len(view.failures) >= self._threshold:
            one = {who for _, who in view.failures} == {failed}
            return failed if one else EVERYBODY
        found = view.pause_of(failed)
        return found[0] if found else ""

    def _close(self, circuit: str, who: str) -> None:
        view = self._circuit(circuit)
        for one in (EVERYBODY, who):
            if view.pauses.pop(one, None):
                self._shared("HDEL", KEY % (circuit, "tripped"), one)
                self._shared("DEL", KEY % (circuit, f"probe:{one}"))
                if one == EVERYBODY:
                    self._shared("SREM", TRIPPED, circuit)

    def _refreshed(self, circuit: str) -> Circuit:
        """The circuit; its shared state is at most REFRESH_INTERVAL old."""
        view = self._circuits.get(circuit)
        if view is None:
            if len(self._circuits) >= MAX_REMEMBERED:
                self._forget_closed()
            view = self._circuits[circuit] = Circuit()
        if self._redis is None or _is_fresh(view):
            return view
        with view.refreshing:
            if not _is_fresh(view):
                self._refresh(self._redis, circuit, view)
        return self._circuit(circuit)

    def _refresh(self, redis: RedisClient, circuit: str, view: Circuit) -> None:
        now = time.monotonic()
        try:
            failures, tripped, clock = redis.execute_all(
                ("ZCARD", KEY % (circuit, "failures")),
                ("HGETALL", KEY % (circuit, "tripped")),
                ("TIME",),
            )
        except RedisUnavailable:
            return
        finally:
            view.refreshed_at = now
        redis_now = int(clock[0]) + int(clock[1]) / 1e6
        pauses = _pairs(tripped)
        view.pauses = {
            who: Pause(
                now + int(until) / 1000 - redis_now,
                view.pauses[who].probing_until if who in view.pauses else 0.0,
            )
            for who, until in pauses.items()
        }
        if not failures:
            view.failures.clear()
        # So that a success in this process ends the shared row.
        view.failures_elsewhere = bool(failures)

    def _circuit(self, circuit: str) -> Circuit:
        return self._circuits.setdefault(circuit, Circuit())

    def _forget_closed(self) -> None:
        """Drop closed breakers: clients may name any model, so targets are not limited."""
        now = time.monotonic()
        kept = {
            name: view
            for name, view in self._circuits.items()
            if any(now < pause.until + WINDOW for pause in view.pauses.values())
            or (view.failures and now < view.failures[-1][0] + WINDOW)
        }
        # A flood of names that all fail: the oldest have to go.
        self._circuits = dict(list(kept.items())[-MAX_REMEMBERED // 2 :])

    def _may_probe(self, circuit: str, who: str, pause: Pause, now: float) -> bool:
        """Claim the single probe, among all processes or in this one alone."""
        if self._redis is None or self._redis.unavailable:
            if now < pause.probing_until:
                return False
        else:
            probe = KEY % (circuit, f"probe:{who}")
            if not self._shared("SET", probe, 1, "NX", "PX", int(PROBE_TTL * 1000)):
                pause.probing_until = now + 1.0
                return False
        pause.probing_until = now + PROBE_TTL
        return True

    def _count_shared_failure(self, circuit: str, failed: str, pause: float) -> str | None:
        """Who is kept away after all processes' failures; None if nothing is shared."""
        if self._redis is None:
            return None
        keys = [KEY % (circuit, name) for name in ("failures", "tripped")]
        unique = f"{id(self)}-{next(self._numbers)}-{time.time_ns()}"
        numbers = [self._threshold, int(WINDOW * 1000), int(pause * 1000), TRIPPED_TTL]
        try:
            away: bytes = self._redis.run(FAIL, *keys, failed, unique, *numbers)
            return away.decode()
        except RedisUnavailable:
            return None

    def _shared(self, *command: str | int) -> Any:
        if self._redis is None:
            return None
        try:
            return self._redis.execute(*command)
        except RedisUnavailable:
            return None


def _is_fresh(view: Circuit) -> bool:
    return time.monotonic() - view.refreshed_at < REFRESH_INTERVAL


def _pairs(reply: Any) -> dict[str, bytes]:
    """The fields of a hash: a list in RESP2, a dict of a cluster's client or RESP3."""
    if isinstance(reply, dict):
        return {name.decode(): value for name, value in reply.items()}
    return {name.decode(): value for name, value in zip(reply[::2], reply[1::2], strict=True)}
