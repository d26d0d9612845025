"""Limits on requests, counted in Redis by Redis's own clock, all of a request's in one trip.

- `window`: in any so many seconds no more than the limit. The log of a window is a list of the
  times of its requests, newest first.
- `day`: of a UTC day. A counter with the day that it counts.
- `parallel`: running at the same time. A sorted set of running requests with the ends of their
  leases, which their worker renews: those of a killed one come free by themselves.
- `tokens`: looked at only; admission/token_windows.py takes from them.

One script looks at all limits of a request and takes from all or from none, so a refused request
consumes nothing. While Redis is away (or where there is none) each process counts for itself, its
share of each limit. What was counted on one side goes on counting on the other: a process remembers
what it was allowed through Redis, and adds to Redis what it has allowed itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from gevent.pool import Pool

from webapp.admission.limit_states import LEASE_TTL, Decision, Limit, LimitState
from webapp.admission.local_rate_limits import LocalRateLimits, Unshared
from webapp.storage.redis_commands import RedisUnavailable, Script

if TYPE_CHECKING:
    from webapp.storage.redis_client import RedisClient

PREFIX = "weir:window:"
SECOND = 1_000_000  # windows are counted in microseconds
ADDED_PER_TICK = 1_000  # buckets
PEEKS_AT_ONCE = 250
# A Redis that refuses commands now and then (a full one) does so to each process at another time.
# So for this long (seconds) after a refusal, a process also keeps within its share.
SHARE_HOLD = 60.0
UNKNOWN = -1

# KEYS: one for each limit. ARGV: kind, amount and length in microseconds of each; at last what has
# been counted of today elsewhere (-1: unknown), the lease in microseconds, and the request, which
# is empty to look only.
# Reply: allowed (0/1, or -1 where today's count has to be told), Redis's time, then for each limit:
# used, and when a place becomes free.
TAKE = """
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local today = math.floor(now / 86400000000)
local request, lease, known = ARGV[#ARGV], tonumber(ARGV[#ARGV - 1]), tonumber(ARGV[#ARGV - 2])
local allowed = 1
local used = {}
for i, key in ipairs(KEYS) do
  local kind, amount, length = ARGV[3 * i - 2], tonumber(ARGV[3 * i - 1]), tonumber(ARGV[3 * i])
  if kind == 'window' then
    local oldest = redis.call('LINDEX', key, -1)
    while oldest and tonumber(oldest) <= now - length do
      redis.call('RPOP', key)
      oldest = redis.call('LINDEX', key, -1)
    end
    used[i] = redis.call('LLEN', key)
  elseif kind == 'day' then
    local counted = redis.call('HMGET', key, 'day', 'used')
    if counted[1] == tostring(today) then used[i] = tonumber(counted[2])
    elseif counted[1] then used[i] = 0
    elseif known < 0 then return {-1, now}
    else used[i] = known end
  elseif kind == 'parallel' then
    redis.call('ZREMRANGEBYSCORE', key, '-inf', now)
    used[i] = redis.call('ZCARD', key)
  else
    local sums = key .. ':of'
    for _, id in ipairs(redis.call('ZRANGEBYSCORE', key, '-inf', now - length)) do
      redis.call('HINCRBY', sums, 'sum', -tonumber(redis.call('HGET', sums, id) or 0))
      redis.call('HDEL', sums, id)
      redis.call('ZREM', key, id)
    end
    used[i] = tonumber(redis.call('HGET', sums, 'sum') or 0)
  end
  if kind ~= 'tokens' and used[i] >= amount then allowed = 0 end
end
local reply = {allowed, now}
for i, key in ipairs(KEYS) do
  local kind, amount, length = ARGV[3 * i - 2], tonumber(ARGV[3 * i - 1]), tonumber(ARGV[3 * i])
  local take = request ~= '' and allowed == 1 and kind ~= 'tokens'
  if take then used[i] = used[i] + 1 end
  local reset = now + length
  if kind == 'window' then
    if take then
      redis.call('LPUSH', key, string.format('%.0f', now))
      redis.call('PEXPIRE', key, math.ceil(length / 1000))
    end
    local leaving = redis.call('LINDEX', key, math.min(used[i], amount) - 1)
    if leaving then reset = tonumber(leaving) + length end
  elseif kind == 'day' then
    if take then
      redis.call('HSET', key, 'day', tostring(today), 'used', used[i])
      redis.call('EXPIRE', key, 172800)
    end
    reset = (today + 1) * 86400000000
  elseif kind == 'parallel' then
    if take then
      redis.call('ZADD', key, now + lease, request)
      redis.call('PEXPIRE', key, math.ceil(lease / 1000))
    end
    reset = now + 1000000
  else
    local oldest = redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')
    reset = (oldest[2] and tonumber(oldest[2]) or now - length) + length
  end
  reply[#reply + 1] = used[i]
  reply[#reply + 1] = reset
end
return reply
"""
# KEYS: the running requests of a bucket. ARGV: the lease in microseconds, then requests.
RENEW = Script(
    """
local clock = redis.call('TIME')
local ends = clock[1] * 1000000 + clock[2] + tonumber(ARGV[1])
for i = 2, #ARGV do redis.call('ZADD', KEYS[1], ends, ARGV[i]) end
redis.call('PEXPIRE', KEYS[1], math.ceil(tonumber(ARGV[1]) / 1000))
""",
    keys=1,
)
# KEYS: the log of a window. ARGV: its length in microseconds, then how long ago requests were that
# this log lacks. A full Redis refuses the first LPUSH, before anything is changed.
ADD_TO_WINDOW = Script(
    """
local clock = redis.call('TIME')
local now, length = clock[1] * 1000000 + clock[2], tonumber(ARGV[1])
for i = 2, #ARGV do
  if tonumber(ARGV[i]) < length then
    redis.call('LPUSH', KEYS[1], string.format('%.0f', now - tonumber(ARGV[i])))
  end
end
local times = redis.call('LRANGE', KEYS[1], 0, -1)
table.sort(times, function(a, b) return tonumber(a) > tonumber(b) end)
redis.call('DEL', KEYS[1])
for _, at in ipairs(times) do redis.call('RPUSH', KEYS[1], at) end
redis.call('PEXPIRE', KEYS[1], math.ceil(length / 1000))
""",
    keys=1,
)
# KEYS: the counter of a day. ARGV: the day, and what to add to it. Where Redis does not know it,
# the database does.
ADD_TO_DAY = Script(
    """
if redis.call('HGET', KEYS[1], 'day') == ARGV[1] then
  redis.call('HINCRBY', KEYS[1], 'used', ARGV[2])
end
""",
    keys=1,
)
# The script takes a list of any length; the number of keys is part of the call.
_SCRIPTS: dict[int, Script] = {}


@lru_cache(10_000)
def _keys_and_limits(bucket: str, limits: Sequence[Limit]) -> list[str | int]:
    """The keys of the script that takes, and the first of its arguments."""
    arguments: list[str | int] = [key_of(bucket, limit) for limit in limits]
    for limit in limits:
        arguments += (limit.kind, limit.amount, limit.length * SECOND)
    return arguments


def key_of(bucket: str, limit: Limit) -> str:
    """Where Redis counts. The braces keep the limits of a bucket in one slot of a cluster."""
    name = limit.length if limit.kind == "window" else limit.kind
    return f"{PREFIX}{{{bucket}}}:{name}"


class RateLimits:
    """Takes from the limits of a bucket; shared through Redis where there is one.

    `counted_today` says what the database has of a bucket's requests of this day, for a Redis or a
    process that knows nothing yet; `tokens_here` what this process has of the tokens of a minute.
    """

    def __init__(
        self,
        redis: RedisClient | None,
        workers: int,
        counted_today: Callable[[str], int] = lambda _: 0,
        tokens_here: Callable[[str], int] = lambda _: 0,
    ) -> None:
        self._redis = redis
        self._local = LocalRateLimits(
            workers if redis else 1, counted_today, tokens_here, keep_unshared=redis is not None
        )
        self._counted_today = counted_today
        self._running: dict[str, set[str]] = {}

    def acquire(self, bucket: str, limits: Sequence[Limit], request: str = "-") -> Decision:
        """Take one request from every limit of the bucket, or from none.

        Of one that counts as running, release() has to be told the end.
        """
        decision = self._decide(bucket, limits, request)
        if decision.allowed and any(limit.kind == "parallel" for limit in limits):
            self._running.setdefault(bucket, set()).add(request)
        return decision

    def peek(self, bucket: str, limits: Sequence[Limit]) -> Decision:
        """What take() would find, without taking."""
        return self._decide(bucket, limits, "")

    def peek_all(
        self, limits: Mapping[str, Sequence[Limit]], counted_today: Mapping[str, int]
    ) -> dict[str, Decision]:
        """Like peek() for the limits of each bucket, in few trips to Redis.

        `counted_today` is what the database has of the buckets that have a limit of a day.
        """

        def peek(bucket: str) -> Decision:
            return self._decide(bucket, limits[bucket], "", counted_today.get(bucket, UNKNOWN))

        if self._redis is None:
            return {bucket: peek(bucket) for bucket in limits}
        return dict(zip(limits, Pool(PEEKS_AT_ONCE).imap(peek, limits), strict=True))

    def release(self, bucket: str, request: str) -> None:
        """The request runs no more."""
        running = self._running.get(bucket, set())
        if request not in running:
            return
        running.discard(request)
        if not running:
            del self._running[bucket]
        self._local.release(bucket, request)
        if self._redis is not None:
            self._redis.send_and_forget("ZREM", f"{PREFIX}{{{bucket}}}:parallel", request)

    def tick(self) -> None:
        """Renew the leases of the requests that still run, and tell Redis what it has missed."""
        if self._redis is None or self._redis.unavailable:
            return
        try:
            for bucket in list(self._local.unshared)[:ADDED_PER_TICK]:
                self._share(self._redis, bucket)
        except RedisUnavailable:
            return
        for bucket, running in list(self._running.items()):
            try:
                key = f"{PREFIX}{{{bucket}}}:parallel"
                self._redis.run(RENEW, key, LEASE_TTL * SECOND, *running)
            except RedisUnavailable:
                return

    def _decide(
        self, bucket: str, limits: Sequence[Limit], request: str, known: int = UNKNOWN
    ) -> Decision:
        redis = self._redis
        if redis is not None and not redis.unavailable:
            if redis.refused_within(SHARE_HOLD):
                windows = [limit for limit in limits if limit.kind == "window"]
                decision = self._local.decision(bucket, windows, "")
                if not decision.allowed:
                    return decision
            try:
                if bucket in self._local.unshared:
                    self._share(redis, bucket)
                decision = self._shared(redis, bucket, limits, request, known)
            except RedisUnavailable:
                pass
            else:
                self._local.note(bucket, decision, request)
                return decision
        return self._local.decision(bucket, limits, request, known)

    def _share(self, redis: RedisClient, bucket: str) -> None:
        """Add what this process has counted alone to what Redis counts."""
        unshared = self._local.unshared.pop(bucket, Unshared())
        try:
            now = time.monotonic()
            for length, times in list(unshared.windows.items()):
                ages = (round((now - at) * SECOND) for at in times)
                redis.run(ADD_TO_WINDOW, f"{PREFIX}{{{bucket}}}:{length}", length * SECOND, *ages)
                del unshared.windows[length]
            if unshared.day_count:
                key = f"{PREFIX}{{{bucket}}}:day"
                redis.run(ADD_TO_DAY, key, unshared.day, unshared.day_count)
        except RedisUnavailable:
            # Refused, it was not added. Without a reply it may have been: not a second time.
            if redis.refused_within(SHARE_HOLD):
                self._local.put_back(bucket, unshared)
            raise

    def _shared(
        self, redis: RedisClient, bucket: str, limits: Sequence[Limit], request: str, known: int
    ) -> Decision:
        count = len(limits)
        script = _SCRIPTS.get(count) or _SCRIPTS.setdefault(count, Script(TAKE, count))
        arguments = _keys_and_limits(bucket, tuple(limits))
        ends = (LEASE_TTL * SECOND, request)
        allowed, now, *states = redis.run(script, *arguments, known, *ends)
        if allowed < 0:
            known = self._counted_today(bucket)
            allowed, now, *states = redis.run(script, *arguments, known, *ends)
        pairs = zip(states[::2], states[1::2], strict=True)
        states = tuple(
            LimitState(limit, used, reset / SECOND)
            for limit, (used, reset) in zip(limits, pairs, strict=True)
        )
        return Decision(bool(allowed), now / SECOND, states)
