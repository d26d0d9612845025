"""One suite for the answer caches: in Redis, and in the process."""

from __future__ import annotations

import math
from typing import Any

import pytest
from flask_caching.backends.base import BaseCache

from tests.support.servers import Valkey, free_port, wait_until
from webapp.storage.answer_cache import MAX_ENTRY_BYTES, PREFIX, MemoryBackend, RedisBackend
from webapp.storage.redis_client import RedisClient

TTL = 60
ENTRIES: list[Any] = [
    {},
    {"content": "", "cost_usd": None, "cached": False, "usage": {"input_tokens": 0}},
    {"content": "ü 😀 \u2028 \x00 \" \\ </script>", "": [1, 2.5, -0.0, 1e-300, [], [[]]]},
    {"large": 12345678901234567890, "nested": [{"a": [{"b": None}]}]},
    {"surrogate": "\ud83d"},
    [1],
    "text",
    0,
    False,
]  # fmt: skip


@pytest.fixture(params=["redis", "memory"])
def cache(request: pytest.FixtureRequest) -> BaseCache:
    if request.param == "memory":
        return MemoryBackend(TTL)
    return RedisBackend(RedisClient(request.getfixturevalue("fresh_valkey").url), TTL)


@pytest.mark.parametrize("entry", ENTRIES, ids=ascii)
def test_an_entry_comes_back_as_it_was(cache: BaseCache, entry: Any) -> None:
    assert cache.set("key", entry)
    assert cache.get("key") == entry
    assert cache.get_many("key") == [entry]


def test_what_was_never_put_is_none(cache: BaseCache) -> None:
    cache.set("key", {"a": 1})
    assert cache.get("Key") is None
    assert cache.get("") is None


def test_a_later_entry_takes_the_place_of_the_one_before(cache: BaseCache) -> None:
    cache.set("key", {"content": "first"})
    cache.set("key", {"content": "second"})
    assert cache.get("key") == {"content": "second"}


def test_what_is_changed_after_it_was_put_stays_as_it_was(cache: BaseCache) -> None:
    entry = {"choices": ["first"]}
    cache.set("key", entry)
    entry["choices"].append("second")
    read = cache.get("key")
    read["choices"].append("third")
    assert cache.get("key") == {"choices": ["first"]}


def test_many_are_put_and_read_together_each_in_its_place(cache: BaseCache) -> None:
    entries = {f"key {number}": {"number": number} for number in range(50)}
    assert cache.set_many(entries) == list(entries)
    cache.set("key 3", {"number": "three"})
    read = cache.get_many("key 49", "none", "key 3", "key 0")
    assert read == [{"number": 49}, None, {"number": "three"}, {"number": 0}]
    assert cache.get_many() == []
    assert cache.set_many({}) == []


def test_an_entry_that_was_put_is_there_for_other_processes(fresh_valkey: Valkey) -> None:
    """Who has an answer may ask again at once, and another worker may take the request."""
    cache = RedisBackend(RedisClient(fresh_valkey.url), TTL)
    assert cache.set("key", {"a": 1})
    with fresh_valkey.client() as another:
        assert another.exists(PREFIX + "key")


def test_an_entry_expires(cache: BaseCache) -> None:
    cache.set("short", {"a": 1}, timeout=1)
    cache.set_many({"many": {"a": 1}}, timeout=1)
    cache.set("long", {"a": 1}, timeout=TTL)
    cache.set("default", {"a": 1})
    assert cache.get_many("short", "many", "long", "default") == [{"a": 1}] * 4
    wait_until(lambda: cache.get_many("short", "many") == [None, None], 3)
    assert cache.get_many("short", "many", "long", "default") == [None, None, {"a": 1}, {"a": 1}]


def test_an_entry_that_is_too_large_is_not_kept(cache: BaseCache) -> None:
    large = {"content": "x" * MAX_ENTRY_BYTES}
    assert not cache.set("large", large)
    assert cache.set_many({"small": {"a": 1}, "large": large, "other": {"b": 2}}) == [
        "small",
        "other",
    ]
    assert cache.get_many("small", "large", "other") == [{"a": 1}, None, {"b": 2}]


def test_one_that_is_too_large_leaves_the_one_before(cache: BaseCache) -> None:
    cache.set("key", {"content": "first"})
    assert not cache.set("key", {"content": "x" * MAX_ENTRY_BYTES})
    assert cache.get("key") == {"content": "first"}


def test_a_number_that_json_has_not_is_kept_as_none_or_refused(cache: BaseCache) -> None:
    """Never as text that nobody can read again."""
    cache.set("odd", {"number": math.nan})
    assert cache.get("odd") in (None, {"number": None})


# What only Redis can do: hold what is not of Weir's making, and be away.


@pytest.mark.parametrize("stored", [b"", b"{", b"\xff\xfe", b"nul", b'{"a": 1} {"b": 2}'])
def test_what_is_not_json_counts_as_absent(fresh_valkey: Valkey, stored: bytes) -> None:
    cache = RedisBackend(RedisClient(fresh_valkey.url), TTL)
    cache.set("good", {"a": 1})
    with fresh_valkey.client() as client:
        client.set(f"{PREFIX}odd", stored)
    assert cache.get("odd") is None
    assert cache.get_many("odd", "good") == [None, {"a": 1}]


def test_redis_away_is_an_empty_cache_that_keeps_nothing() -> None:
    cache = RedisBackend(RedisClient(f"redis://127.0.0.1:{free_port()}/0"), TTL)
    assert cache.get("key") is None
    assert not cache.set("key", {"a": 1})
    assert cache.set_many({"key": {"a": 1}}) == []
    assert cache.get_many("key", "other") == [None, None]


def test_the_memory_is_bounded_in_bytes_and_the_least_recently_read_leaves_first() -> None:
    cache = MemoryBackend(default_timeout=60, capacity=10_000)
    cache.set("read", {"content": "x"})
    for number in range(100):
        assert cache.set(f"key{number}", {"content": "x" * 500})
        assert cache.get("read")
    kept = [number for number in range(100) if cache.get(f"key{number}")]
    assert 5 < len(kept) < 20
    assert kept[-1] == 99
    assert not cache.set("large", {"content": "x" * 9_000})
