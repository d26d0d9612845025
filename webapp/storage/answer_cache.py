"""The answer cache: Flask-Caching backends, in Redis or in this process, always as JSON."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from flask import Flask
from flask_caching import Cache
from flask_caching.backends.base import BaseCache

from webapp import json_codec
from webapp.storage.redis_commands import RedisUnavailable

if TYPE_CHECKING:
    from webapp.storage.redis_client import RedisClient

log = logging.getLogger(__name__)

PREFIX = "weir:answer:"
MEMORY_BYTES = 32 * 1024 * 1024
# A larger entry would delay the commands of other requests.
MAX_ENTRY_BYTES = 4 * 1024 * 1024


class JSONSerializer:
    """Values as compact JSON; what cannot be read back counts as absent."""

    def dumps(self, value: Any) -> bytes:
        return json_codec.dumps(value)

    def loads(self, stored: bytes | None) -> Any:
        if stored is None:
            return None
        try:
            return json_codec.loads(stored)
        except ValueError:
            log.warning("Ignored a cache entry that is not JSON")
            return None


class RedisBackend(BaseCache):
    """Answers in Redis, shared by all workers and replicas. While unavailable, it is empty."""

    def __init__(self, redis: RedisClient, default_timeout: int) -> None:
        super().__init__(default_timeout)
        self.serializer = JSONSerializer()
        self._redis = redis

    @classmethod
    def factory(
        cls, app: Flask, config: dict[str, Any], args: list[Any], kwargs: dict[str, Any]
    ) -> RedisBackend:
        return cls(kwargs["redis"], kwargs["default_timeout"])

    def get(self, key: str) -> Any:
        try:
            return self.serializer.loads(self._redis.execute("GET", PREFIX + key))
        except RedisUnavailable:
            return None

    def set(self, key: str, value: Any, timeout: int | None = None) -> bool:
        seconds = self.default_timeout if timeout is None else timeout
        stored = self.serializer.dumps(value)
        if len(stored) > MAX_ENTRY_BYTES:
            return False
        try:
            self._redis.execute("SET", PREFIX + key, stored, "EX", seconds)
        except RedisUnavailable:
            return False
        return True

    def get_many(self, *keys: str) -> list[Any]:
        """In one round trip."""
        try:
            stored = self._redis.execute_all(*(("GET", PREFIX + key) for key in keys))
        except RedisUnavailable:
            return [None] * len(keys)
        return [self.serializer.loads(value) for value in stored]

    def set_many(self, mapping: dict[str, Any], timeout: int | None = None) -> list[str]:
        """In one round trip; returns the keys that were set."""
        seconds = self.default_timeout if timeout is None else timeout
        stored = {key: self.serializer.dumps(value) for key, value in mapping.items()}
        short = [key for key, value in stored.items() if len(value) <= MAX_ENTRY_BYTES]
        try:
            self._redis.execute_all(
                *(("SET", PREFIX + key, stored[key], "EX", seconds) for key in short)
            )
        except RedisUnavailable:
            return []
        return short


class MemoryBackend(BaseCache):
    """Answers in this process; beyond `capacity` bytes the least recently used are dropped."""

    def __init__(self, default_timeout: int, capacity: int = MEMORY_BYTES) -> None:
        super().__init__(default_timeout)
        self.serializer = JSONSerializer()
        self._capacity = capacity
        self._size = 0
        self._entries: OrderedDict[str, tuple[float, bytes]] = OrderedDict()

    @classmethod
    def factory(
        cls, app: Flask, config: dict[str, Any], args: list[Any], kwargs: dict[str, Any]
    ) -> MemoryBackend:
        return cls(kwargs["default_timeout"])

    def get(self, key: str) -> Any:
        entry = self._entries.get(key)
        if entry is None:
            return None
        if entry[0] < time.monotonic():
            self._drop(key)
            return None
        self._entries.move_to_end(key)
        return self.serializer.loads(entry[1])

    def set(self, key: str, value: Any, timeout: int | None = None) -> bool:
        stored = self.serializer.dumps(value)
        if len(stored) > min(MAX_ENTRY_BYTES, self._capacity // 8):
            return False
        self._drop(key)
        seconds = self.default_timeout if timeout is None else timeout
        self._entries[key] = (time.monotonic() + seconds, stored)
        self._size += _weight(key, stored)
        while self._size > self._capacity:
            self._drop(next(iter(self._entries)))
        return True

    def _drop(self, key: str) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._size -= _weight(key, entry[1])


def _weight(key: str, stored: bytes) -> int:
    """The bytes of an entry, including Python's overhead."""
    return len(key) + len(stored) + 250


class FlaskAnswerCache:
    """The gateway's AnswerCache on Flask-Caching."""

    def __init__(self, app: Flask, cache: Cache, ttl: int, stale_for: int) -> None:
        self._backend = app.extensions["cache"][cache]
        self.ttl = ttl
        self.stale_for = stale_for

    def get(self, key: str) -> dict[str, Any] | None:
        entry: dict[str, Any] | None = self._backend.get(key)
        return entry

    def put(self, key: str, entry: dict[str, Any]) -> None:
        self._backend.set(key, entry, timeout=max(self.ttl, self.stale_for))

    def get_many(self, keys: Sequence[str]) -> list[dict[str, Any] | None]:
        """The entries of all keys, in one round trip."""
        entries: list[dict[str, Any] | None] = self._backend.get_many(*keys)
        return entries

    def put_many(self, entries: Mapping[str, dict[str, Any]]) -> None:
        self._backend.set_many(dict(entries), timeout=max(self.ttl, self.stale_for))
