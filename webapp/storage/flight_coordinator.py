"""Coordinates flights between processes through Redis, or not at all without Redis.

Of each flight, Redis holds the leader and whether it is followed (a hash), and its entries (a list,
written only if it is followed). Each process sends heartbeats, and reads from its own set which of
its flights have followers.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from webapp.llm.calls import FlightProgress
from webapp.storage.redis_commands import RedisUnavailable, Script

if TYPE_CHECKING:
    from webapp.storage.redis_client import RedisClient

FLIGHT = "weir:flight-2:{%s}"
ENTRIES = "weir:flight-2:{%s}:%s"
ALIVE = "weir:alive:%s"
FOLLOWED = "weir:followed:%s"

LEASE_TTL = 2_000  # ms: a process without a heartbeat for so long has lost its flights
FLIGHT_TTL = 30_000  # ms: renewed while the flight runs, as the word of its end may be lost
ENTRIES_TTL = 10_000  # ms: followers read the end of a flight within this
MAX_ENTRIES_LENGTH = 4 * 1024 * 1024  # characters; longer last entries would block Redis

# KEYS: the flight. ARGV: its name, its TTL (ms). Reply: the leader, or nil if this one leads now.
CLAIM = Script(
    """
local leader = redis.call('HGET', KEYS[1], 'leader')
if leader then
  redis.call('HSET', KEYS[1], 'followed', 1)
  return leader
end
redis.call('HSET', KEYS[1], 'leader', ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
""",
    keys=1,
)
# KEYS: the flight, its entries. ARGV: the flight's name, the TTL of its entries (ms).
# Reply: 1 if it leads and has followers; otherwise 0, and it has ended.
RELEASE = Script(
    """
redis.call('PEXPIRE', KEYS[2], ARGV[2])
if redis.call('HGET', KEYS[1], 'leader') ~= ARGV[1] then return 0 end
if redis.call('HGET', KEYS[1], 'followed') then return 1 end
redis.call('DEL', KEYS[1])
return 0
""",
    keys=2,
)
# KEYS: the flight. ARGV: who gives up the lead: a flight, or a process with all its flights.
DROP = Script(
    """
local leader = redis.call('HGET', KEYS[1], 'leader')
if leader and string.sub(leader, 1, #ARGV[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
""",
    keys=1,
)


class LocalCoordinator:
    """The coordinator of a process that shares nothing: it leads all its flights."""

    def claim(self, key: str, flight: str) -> str | None:
        return None

    def is_led(self, key: str) -> bool:
        return False

    def poll(self, key: str, flight: str, position: int) -> FlightProgress:
        return FlightProgress([], led=False)

    def publish(self, key: str, flight: str, entries: list[Any]) -> None:
        """There are no followers."""

    def finish(self, key: str, flight: str, last_entries: Callable[[], list[Any]]) -> None:
        """There are no followers."""

    def relinquish(self, key: str) -> None:
        """There is no lease."""

    def heartbeat(self) -> set[str]:
        return set()

    def renew(self, flights: Iterable[tuple[str, str]]) -> None:
        """There is no lease."""

    def close(self) -> None:
        """There is no lease."""


class RedisCoordinator:
    """Coordinates flights in Redis. While Redis is unavailable, nothing is shared."""

    def __init__(self, redis: RedisClient) -> None:
        self._redis = redis
        self._process = uuid.uuid4().hex

    def claim(self, key: str, flight: str) -> str | None:
        try:
            leader = self._redis.run(CLAIM, FLIGHT % key, self._name(flight), FLIGHT_TTL)
        except RedisUnavailable:
            return None
        return leader.decode() if leader else None

    def is_led(self, key: str) -> bool:
        try:
            return bool(self._redis.execute("EXISTS", FLIGHT % key))
        except RedisUnavailable:
            return False

    def poll(self, key: str, flight: str, position: int) -> FlightProgress:
        process = flight.partition(".")[0]
        try:
            leader, alive, entries, *_ = self._redis.execute_all(
                ("HGET", FLIGHT % key, "leader"),
                ("EXISTS", ALIVE % process),
                ("LRANGE", ENTRIES % (key, flight), position, -1),
                ("SADD", FOLLOWED % process, key),
                ("PEXPIRE", FOLLOWED % process, LEASE_TTL),
            )
            led = leader == flight.encode()
            if led and not alive:
                self._redis.run(DROP, FLIGHT % key, flight)
        except RedisUnavailable:
            return FlightProgress([], led=False)
        return FlightProgress([json.loads(entry) for entry in entries], bool(led and alive))

    def publish(self, key: str, flight: str, entries: list[Any]) -> None:
        name = ENTRIES % (key, self._name(flight))
        try:
            self._redis.execute_all(
                ("RPUSH", name, *(json.dumps(entry) for entry in entries)),
                ("PEXPIRE", name, FLIGHT_TTL),
            )
        except RedisUnavailable:
            return

    def finish(self, key: str, flight: str, last_entries: Callable[[], list[Any]]) -> None:
        name = self._name(flight)
        log = ENTRIES % (key, name)
        try:
            if not self._redis.run(RELEASE, FLIGHT % key, log, name, ENTRIES_TTL):
                return
            entries = [json.dumps(entry) for entry in last_entries()]
            if entries and sum(map(len, entries)) <= MAX_ENTRIES_LENGTH:
                self._redis.execute_all(("RPUSH", log, *entries), ("PEXPIRE", log, ENTRIES_TTL))
            self._redis.run(DROP, FLIGHT % key, name)
        except RedisUnavailable:
            return

    def relinquish(self, key: str) -> None:
        try:
            self._redis.run(DROP, FLIGHT % key, self._process)
        except RedisUnavailable:
            return

    def heartbeat(self) -> set[str]:
        try:
            _, followed = self._redis.execute_all(
                ("SET", ALIVE % self._process, 1, "PX", LEASE_TTL),
                ("SPOP", FOLLOWED % self._process, 10_000),
            )
        except RedisUnavailable:
            return set()
        return {key.decode() for key in followed}

    def renew(self, flights: Iterable[tuple[str, str]]) -> None:
        names = [
            name
            for key, flight in flights
            for name in (FLIGHT % key, ENTRIES % (key, self._name(flight)))
        ]
        try:
            self._redis.execute_all(*(("PEXPIRE", name, FLIGHT_TTL) for name in names))
        except RedisUnavailable:
            return

    def close(self) -> None:
        """Give up the lease, so that followers need not wait until it expires."""
        try:
            self._redis.execute("DEL", ALIVE % self._process)
        except RedisUnavailable:
            return

    def _name(self, flight: str) -> str:
        return f"{self._process}.{flight}"
