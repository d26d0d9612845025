"""The targets that refused calls of clients who wait, for lack of capacity; shared with Redis.

Batches keep away from them, in whatever process they run.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

from webapp.storage.redis_commands import RedisUnavailable

if TYPE_CHECKING:
    from webapp.storage.redis_client import RedisClient

KEY = "weir:busy:{%s}"
# Keeps the longer one of two pauses. KEYS: the target's key. ARGV: milliseconds.
REPORT = """
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[1]) then
  redis.call('SET', KEYS[1], '1', 'PX', ARGV[1])
end
"""
DEFAULT_PAUSE = 5.0  # seconds, where the provider names none
MAX_PAUSE = 60.0  # seconds; who is refused again renews it
WRITE_INTERVAL = 0.5  # seconds
REFRESH_INTERVAL = 0.5  # seconds
MAX_REMEMBERED = 1_000


class BusyTargets:
    """Which targets are busy, and for how long. Without Redis this process alone knows."""

    def __init__(self, redis: RedisClient | None) -> None:
        self._redis = redis
        # Until when, and when Redis was asked last; both monotonic.
        self._until: dict[str, float] = {}
        self._asked_at: dict[str, float] = {}

    def report(self, target: str, retry_after: float | None) -> None:
        """A target refused a call that somebody waits for."""
        seconds = min(retry_after or DEFAULT_PAUSE, MAX_PAUSE)
        until = time.monotonic() + seconds
        # A burst of refusals needs no write each.
        if until < self._until.get(target, 0.0) + WRITE_INTERVAL:
            return
        self._remember(target, until)
        if self._redis is not None:
            milliseconds = math.ceil(seconds * 1000)
            self._redis.send_and_forget("EVAL", REPORT, 1, KEY % target, milliseconds)

    def busy_for(self, target: str) -> float:
        """Seconds until it may be called again. Asks Redis at most twice a second."""
        now = time.monotonic()
        if self._redis is not None and now - self._asked_at.get(target, -1.0) >= REFRESH_INTERVAL:
            self._bound(self._asked_at)
            self._asked_at[target] = now
            try:
                milliseconds = int(self._redis.execute("PTTL", KEY % target))
            except RedisUnavailable:
                milliseconds = 0
            if milliseconds > 0:
                self._remember(target, max(self._until.get(target, 0.0), now + milliseconds / 1000))
        return max(0.0, self._until.get(target, 0.0) - now)

    def _remember(self, target: str, until: float) -> None:
        self._bound(self._until)
        self._until[target] = until

    def _bound(self, times: dict[str, float]) -> None:
        """Clients may name any model, so targets are not limited: the oldest have to go."""
        while len(times) >= MAX_REMEMBERED:
            del times[next(iter(times))]
