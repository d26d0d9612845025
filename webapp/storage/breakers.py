"""Circuit breakers of the targets; with Redis, all workers share them.

A target that fails `threshold` times within a minute, without a success in between, is skipped for
`pause` seconds. Then one call is let through as a probe: if it succeeds, the breaker closes, else
the pause starts again. Each process reads the shared state twice a second, so a closed breaker
costs a call nothing.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from webapp.storage.redis_client import RedisClient, RedisUnavailable, Script

WINDOW = 60.0
REFRESH_INTERVAL = 0.5
TRIPPED_TTL = 3_600_000  # ms for which a breaker stays half-open without calls
MAX_REMEMBERED = 1_000
PROBE_TTL = 30.0  # seconds after which a probe without a result is given up

KEY = "weir:breaker:{%s}:%s"
TRIPPED = "weir:breakers:tripped"  # the targets whose breakers are not closed
# KEYS: failures, pause, tripped, probe. ARGV: threshold, window, pause, memory (ms).
# Reply: the pause in ms if the breaker is open now, else 0.
FAIL = Script(
    """
local failures = redis.call('INCR', KEYS[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
if failures < tonumber(ARGV[1]) and redis.call('EXISTS', KEYS[3]) == 0 then return 0 end
redis.call('SET', KEYS[2], 1, 'PX', ARGV[3])
redis.call('SET', KEYS[3], 1, 'PX', ARGV[4])
redis.call('DEL', KEYS[1], KEYS[4])
return tonumber(ARGV[3])
""",
    keys=4,
)


@dataclass(slots=True)
class Breaker:
    """This process's view of one target. Times are monotonic."""

    failures: deque[float] = field(default_factory=deque)
    open_until: float = 0.0
    tripped: bool = False
    probing_until: float = 0.0
    refreshed_at: float = float("-inf")

    @property
    def state(self) -> str:
        if time.monotonic() < self.open_until:
            return "open"
        return "half-open" if self.tripped else "closed"


class CircuitBreakers:
    """The breakers of all targets that this process has called."""

    def __init__(self, redis: RedisClient | None, threshold: int, pause: float) -> None:
        self._redis = redis
        self._threshold = threshold
        self._pause = pause
        self._breakers: dict[str, Breaker] = {}

    def allows(self, target: str) -> bool:
        breaker = self._refreshed(target)
        now = time.monotonic()
        if now < breaker.open_until:
            return False
        return not breaker.tripped or self._may_probe(target, breaker, now)

    def succeeded(self, target: str) -> None:
        breaker = self._breaker(target)
        if breaker.failures or breaker.tripped:
            self._breakers[target] = Breaker(refreshed_at=breaker.refreshed_at)
            self._shared(
                "DEL", *(KEY % (target, name) for name in ("failures", "pause", "tripped", "probe"))
            )
            self._shared("SREM", TRIPPED, target)

    def failed(self, target: str, retry_after: int | None) -> None:
        breaker, now = self._breaker(target), time.monotonic()
        breaker.failures.append(now)
        while breaker.failures[0] <= now - WINDOW:
            breaker.failures.popleft()
        pause = max(self._pause, min(float(retry_after or 0), WINDOW))
        opened = self._count_shared_failure(target, pause)
        if opened is None:
            opened = breaker.tripped or len(breaker.failures) >= self._threshold
        if opened:
            self._shared("SADD", TRIPPED, target)
            breaker.open_until, breaker.tripped = now + pause, True
            breaker.failures.clear()
            breaker.probing_until = 0.0

    def abandoned(self, target: str) -> None:
        breaker = self._breaker(target)
        if breaker.tripped:
            breaker.probing_until = 0.0
            self._shared("DEL", KEY % (target, "probe"))

    def opens_in(self, target: str) -> float:
        breaker = self._breakers.get(target) or Breaker()
        end = max(breaker.open_until, breaker.probing_until)
        return max(0.0, end - time.monotonic())

    def states(self) -> dict[str, dict[str, Any]]:
        """The state of each target, and of an open one the seconds until a probe is let through."""
        shown: dict[str, dict[str, Any]] = {}
        elsewhere = {name.decode() for name in self._shared("SMEMBERS", TRIPPED) or ()}
        for target in sorted(elsewhere.union(self._breakers)):
            breaker = self._refreshed(target)
            shown[target] = {"state": breaker.state}
            if breaker.state == "closed" and target in elsewhere:
                self._shared("SREM", TRIPPED, target)
            if breaker.state == "open":
                shown[target]["probe_in_s"] = round(self.opens_in(target), 1)
        return shown

    def _refreshed(self, target: str) -> Breaker:
        """The breaker; its shared state is at most REFRESH_INTERVAL old."""
        breaker = self._breakers.get(target)
        if breaker is None:
            if len(self._breakers) >= MAX_REMEMBERED:
                self._forget_closed()
            breaker = self._breakers[target] = Breaker()
        now = time.monotonic()
        if self._redis is None or now - breaker.refreshed_at < REFRESH_INTERVAL:
            return breaker
        breaker.refreshed_at = now
        try:
            failures, pause, tripped = self._redis.execute_all(
                ("GET", KEY % (target, "failures")),
                ("PTTL", KEY % (target, "pause")),
                ("EXISTS", KEY % (target, "tripped")),
            )
        except RedisUnavailable:
            return breaker
        breaker = self._breaker(target)
        breaker.tripped = bool(tripped)
        breaker.open_until = now + pause / 1000 if pause > 0 else 0.0
        if not failures:
            breaker.failures.clear()
        elif not breaker.failures:
            # So that a success in this process resets the shared count.
            breaker.failures.append(now)
        return breaker

    def _breaker(self, target: str) -> Breaker:
        return self._breakers.setdefault(target, Breaker())

    def _forget_closed(self) -> None:
        """Drop closed breakers: clients may name any model, so targets are not limited."""
        self._breakers = {
            target: breaker
            for target, breaker in self._breakers.items()
            if breaker.tripped or breaker.failures
        }

    def _may_probe(self, target: str, breaker: Breaker, now: float) -> bool:
        """Claim the single probe, among all processes or in this one alone."""
        if self._redis is None or self._redis.unavailable:
            if now < breaker.probing_until:
                return False
        elif not self._shared("SET", KEY % (target, "probe"), 1, "NX", "PX", int(PROBE_TTL * 1000)):
            breaker.probing_until = now + 1.0
            return False
        breaker.probing_until = now + PROBE_TTL
        return True

    def _count_shared_failure(self, target: str, pause: float) -> bool | None:
        """Whether all processes' failures have opened the breaker; None if nothing is shared."""
        if self._redis is None:
            return None
        keys = [KEY % (target, name) for name in ("failures", "pause", "tripped", "probe")]
        numbers = [self._threshold, int(WINDOW * 1000), int(pause * 1000), TRIPPED_TTL]
        try:
            return bool(self._redis.run(FAIL, *keys, *numbers))
        except RedisUnavailable:
            return None

    def _shared(self, *command: str | int) -> Any:
        if self._redis is None:
            return None
        try:
            return self._redis.execute(*command)
        except RedisUnavailable:
            return None
