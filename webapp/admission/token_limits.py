"""Tokens a minute: reserved at their ceiling before a call, settled at what it used.

A window has an entry for each call, not for each token, and their sum. An entry leaves a minute
after its reservation. While Redis is away, or where there is none, each process counts its share,
and what it was allowed through Redis is part of that.
"""

from __future__ import annotations

import math
import time
import uuid
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from webapp.admission.rate_limits import PREFIX, SECOND, SHARE_HOLD
from webapp.errors import RateLimitExceeded
from webapp.storage.redis_commands import RedisUnavailable, Script

if TYPE_CHECKING:
    from webapp.storage.redis_client import RedisClient

WINDOW = 60

# KEYS: the entries by time, their tokens. ARGV: the limit, the tokens, the id of the entry.
# Reply: taken (0/1), the sum, and how long (microseconds) until there is room.
RESERVE = Script(
    """
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local limit, tokens = tonumber(ARGV[1]), tonumber(ARGV[2])
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now - 60000000)) do
  redis.call('HINCRBY', KEYS[2], 'sum', -tonumber(redis.call('HGET', KEYS[2], id) or 0))
  redis.call('HDEL', KEYS[2], id)
  redis.call('ZREM', KEYS[1], id)
end
local sum = tonumber(redis.call('HGET', KEYS[2], 'sum') or 0)
if sum + tokens > limit then
  local left, wait = sum, 60000000
  local entries = redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')
  for i = 1, #entries, 2 do
    left = left - tonumber(redis.call('HGET', KEYS[2], entries[i]) or 0)
    if left + tokens <= limit then
      wait = tonumber(entries[i + 1]) + 60000000 - now
      break
    end
  end
  return {0, sum, wait}
end
redis.call('ZADD', KEYS[1], now, ARGV[3])
redis.call('HSET', KEYS[2], ARGV[3], tokens)
redis.call('HINCRBY', KEYS[2], 'sum', tokens)
redis.call('EXPIRE', KEYS[1], 61)
redis.call('EXPIRE', KEYS[2], 61)
return {1, sum + tokens, 0}
""",
    keys=2,
)
# KEYS: as above. ARGV: the id of the entry, its tokens.
SETTLE = """
local held = redis.call('HGET', KEYS[2], ARGV[1])
if held then
  redis.call('HINCRBY', KEYS[2], 'sum', tonumber(ARGV[2]) - tonumber(held))
  redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
end
"""


@dataclass(frozen=True, slots=True)
class TokenReservation:
    """A reservation."""

    bucket: str
    id: str


class TokenRateLimits:
    """Reserves and settles; shared through Redis where there is one."""

    def __init__(self, redis: RedisClient | None, workers: int) -> None:
        self._redis = redis
        self._workers = workers if redis else 1
        self._local: dict[str, OrderedDict[str, tuple[float, int]]] = {}

    def reserve(self, bucket: str, limit: int, tokens: int, *, named: bool) -> TokenReservation:
        """Take tokens from this minute. Raises RateLimitExceeded.

        A call that may use more than the whole limit runs alone in its minute; where the client
        itself `named` so much, it is refused.
        """
        if tokens > limit and named:
            error = RateLimitExceeded(
                f"This request may use {tokens} tokens; the limit is {limit} tokens per minute. "
                "Set a smaller max_tokens.",
                details={"limit": "tokens_per_minute", "size": limit, "used": 0, "reset": None},
            )
            error.should_retry = False
            raise error
        reservation = TokenReservation(bucket, uuid.uuid4().hex)
        taken, used, wait = self._take(reservation, limit, min(tokens, limit))
        if not taken:
            seconds = max(1, math.ceil(wait))
            raise RateLimitExceeded(
                f"The limit of {limit} tokens per minute has {max(0, limit - used)} left; this "
                f"request may use {tokens}. Try again in {seconds} s.",
                details={
                    "limit": "tokens_per_minute",
                    "size": limit,
                    "used": used,
                    "reset": math.ceil(time.time() + wait),
                },
                retry_after=seconds,
            )
        return reservation

    def settle(self, reservation: TokenReservation, tokens: int) -> None:
        """Replace what was reserved by what was used."""
        if self._redis is not None:
            keys = _keys(reservation.bucket)
            self._redis.send_and_forget("EVAL", SETTLE, 2, *keys, reservation.id, tokens)
        entries = self._local.get(reservation.bucket)
        if entries and reservation.id in entries:
            entries[reservation.id] = (entries[reservation.id][0], tokens)

    def used_here(self, bucket: str) -> int:
        """The tokens of this minute that this process has counted for itself."""
        oldest = time.monotonic() - WINDOW
        entries = self._local.get(bucket, OrderedDict())
        return sum(amount for at, amount in entries.values() if at > oldest)

    def _take(
        self, reservation: TokenReservation, limit: int, tokens: int
    ) -> tuple[bool, int, float]:
        if self._redis is not None and not self._redis.unavailable:
            entries = self._entries(reservation.bucket)
            # See SHARE_HOLD: what is taken here is within the share, too.
            held = self._redis.refused_within(SHARE_HOLD)
            if held:
                found = self._take_locally(reservation, limit, tokens)
                if not found[0]:
                    return found
            try:
                keys = _keys(reservation.bucket)
                taken, used, wait = self._redis.run(RESERVE, *keys, limit, tokens, reservation.id)
            except RedisUnavailable:
                if held:
                    return found
            else:
                # What Redis allowed goes on counting here when Redis is away.
                if taken:
                    entries[reservation.id] = (time.monotonic(), tokens)
                else:
                    entries.pop(reservation.id, None)
                return bool(taken), used, wait / SECOND
        return self._take_locally(reservation, limit, tokens)

    def _entries(self, bucket: str) -> OrderedDict[str, tuple[float, int]]:
        """What this process has counted in the last minute."""
        oldest = time.monotonic() - WINDOW
        entries = self._local.setdefault(bucket, OrderedDict())
        while entries and next(iter(entries.values()))[0] <= oldest:
            entries.popitem(last=False)
        return entries

    def _take_locally(
        self, reservation: TokenReservation, limit: int, tokens: int
    ) -> tuple[bool, int, float]:
        share, now = max(1, limit // self._workers), time.monotonic()
        entries = self._entries(reservation.bucket)
        used = sum(amount for _, amount in entries.values())
        wanted = min(tokens, share)
        if used + wanted <= share:
            entries[reservation.id] = (now, wanted)
            return True, used + wanted, 0.0
        left = used
        for at, amount in entries.values():
            left -= amount
            if left + wanted <= share:
                return False, used, at + WINDOW - now
        return False, used, float(WINDOW)


def _keys(bucket: str) -> tuple[str, str]:
    entries = f"{PREFIX}{{{bucket}}}:tokens"
    return entries, f"{entries}:of"
