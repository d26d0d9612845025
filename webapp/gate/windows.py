"""Sliding windows: in any 60 s no more than the limit, counted in Redis by Redis's own clock.

The log of each window is a list of the times of its requests, newest first. One script looks at
all limits of a request and takes from all or from none, so a refused request consumes nothing.
While Redis is away (or where there is none) each process counts for itself, its share of each
limit.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from limits import RateLimitItem

from webapp.storage.shared_memory import Script, SharedMemory, SharedMemoryAway

PREFIX = "weir:window:"
SECOND = 1_000_000  # windows are counted in microseconds
SWEEP_ABOVE = 10_000

# KEYS: a window each. ARGV: its amount and its length in microseconds, alternating; at last 1 to
# take from them, 0 to look only.
# Reply: allowed (0/1), Redis's time, then for each window: used, and when a place becomes free.
TAKE = """
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local allowed = 1
local take = ARGV[#ARGV] == '1'
for i, key in ipairs(KEYS) do
  local amount, length = tonumber(ARGV[2 * i - 1]), tonumber(ARGV[2 * i])
  local oldest = redis.call('LINDEX', key, -1)
  while oldest and tonumber(oldest) <= now - length do
    redis.call('RPOP', key)
    oldest = redis.call('LINDEX', key, -1)
  end
  if redis.call('LLEN', key) >= amount then allowed = 0 end
end
local reply = {allowed, now}
for i, key in ipairs(KEYS) do
  local amount, length = tonumber(ARGV[2 * i - 1]), tonumber(ARGV[2 * i])
  if take and allowed == 1 then
    redis.call('LPUSH', key, string.format('%.0f', now))
    redis.call('PEXPIRE', key, math.ceil(length / 1000))
  end
  local used = redis.call('LLEN', key)
  local leaving = redis.call('LINDEX', key, math.min(used, amount) - 1)
  reply[#reply + 1] = used
  reply[#reply + 1] = (leaving and tonumber(leaving) or now) + length
end
return reply
"""
# The script takes a list of any length; the number of keys is part of the call.
_SCRIPTS: dict[int, Script] = {}


@dataclass(frozen=True, slots=True)
class Window:
    """One limit after a request: `reset` (Unix seconds) is when its next place becomes free."""

    item: RateLimitItem
    used: int
    reset: float

    @property
    def remaining(self) -> int:
        return max(0, self.item.amount - self.used)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a request: allowed or not, and the state of each of its limits."""

    allowed: bool
    now: float
    windows: tuple[Window, ...]

    @property
    def tightest(self) -> Window:
        """The limit with the least left; of several, the one that frees a place last."""
        return min(self.windows, key=lambda window: (window.remaining, -window.reset))

    @property
    def retry_after(self) -> int:
        """Whole seconds until every limit has a place again, rounded up."""
        full = [window.reset for window in self.windows if not window.remaining]
        return max(1, math.ceil(max(full, default=self.now) - self.now))


class SlidingWindows:
    """Takes from the windows of a bucket; shared through Redis where there is one."""

    def __init__(self, shared_memory: SharedMemory | None, workers: int) -> None:
        self._shared_memory = shared_memory
        self._local = LocalWindows(workers if shared_memory else 1)

    @property
    def degraded(self) -> bool:
        return bool(self._shared_memory and self._shared_memory.away)

    def take(self, bucket: str, items: Sequence[RateLimitItem]) -> Verdict:
        """Take one request from every limit of the bucket, or from none."""
        return self._verdict(bucket, items, take=True)

    def look(self, bucket: str, items: Sequence[RateLimitItem]) -> Verdict:
        """What take() would find, without taking."""
        return self._verdict(bucket, items, take=False)

    def _verdict(self, bucket: str, items: Sequence[RateLimitItem], *, take: bool) -> Verdict:
        if self._shared_memory is not None:
            try:
                return self._shared(self._shared_memory, bucket, items, take)
            except SharedMemoryAway:
                pass
        return self._local.take(bucket, items) if take else self._local.look(bucket, items)

    @staticmethod
    def _shared(
        shared_memory: SharedMemory, bucket: str, items: Sequence[RateLimitItem], take: bool
    ) -> Verdict:
        count = len(items)
        script = _SCRIPTS.get(count) or _SCRIPTS.setdefault(count, Script(TAKE, count))
        # The braces keep the windows of a bucket in one slot of a cluster.
        keys = [f"{PREFIX}{{{bucket}}}:{item.get_expiry()}" for item in items]
        numbers = [n for item in items for n in (item.amount, item.get_expiry() * SECOND)]
        allowed, now, *states = shared_memory.run(script, *keys, *numbers, int(take))
        pairs = zip(states[::2], states[1::2], strict=True)
        windows = tuple(
            Window(item, used, reset / SECOND)
            for item, (used, reset) in zip(items, pairs, strict=True)
        )
        return Verdict(bool(allowed), now / SECOND, windows)


class LocalWindows:
    """The same windows within this process, each limit divided among `workers`."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._logs: dict[tuple[str, int], deque[float]] = {}

    def take(self, bucket: str, items: Sequence[RateLimitItem]) -> Verdict:
        return self._verdict(bucket, items, take=True)

    def look(self, bucket: str, items: Sequence[RateLimitItem]) -> Verdict:
        return self._verdict(bucket, items, take=False)

    def _verdict(self, bucket: str, items: Sequence[RateLimitItem], *, take: bool) -> Verdict:
        now, wall = time.monotonic(), time.time()
        states = [self._state(bucket, item, now) for item in items]
        allowed = all(len(log) < share for log, share in states)
        windows = []
        for item, (log, share) in zip(items, states, strict=True):
            if take and allowed:
                log.append(now)
            # The oldest entry of those that fill the share leaves first.
            leaving = log[max(0, len(log) - share)] if log else now
            used = len(log) + item.amount - share if len(log) >= share else len(log)
            windows.append(Window(item, used, wall + leaving + item.get_expiry() - now))
        return Verdict(allowed, wall, tuple(windows))

    def _state(self, bucket: str, item: RateLimitItem, now: float) -> tuple[deque[float], int]:
        if len(self._logs) > SWEEP_ABOVE:
            self._sweep(now)
        log = self._logs.setdefault((bucket, item.get_expiry()), deque())
        while log and log[0] <= now - item.get_expiry():
            log.popleft()
        return log, max(1, item.amount // self._workers)

    def _sweep(self, now: float) -> None:
        """Forget windows in which nothing is left: addresses come and go."""
        for key, log in list(self._logs.items()):
            if not log or log[-1] <= now - key[1]:
                del self._logs[key]
