"""One promise for both kinds of windows: never more than the limit in any window, all or none."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import pytest
from limits import RateLimitItemPerSecond, parse_many

from tests.support.servers import Valkey
from webapp.admission.rate_limits import Limit, LocalRateLimits, RateLimits, window_limits
from webapp.storage.redis_client import RedisClient

Windows = RateLimits | LocalRateLimits


def parsed(notation: str) -> tuple[Limit, ...]:
    return window_limits(tuple(parse_many(notation)))


@pytest.fixture(params=["shared", "local"])
def windows(request: pytest.FixtureRequest, fresh_valkey: Valkey) -> Windows:
    if request.param == "local":
        return LocalRateLimits(workers=1)
    return RateLimits(RedisClient(fresh_valkey.url), workers=1)


def test_no_window_ever_has_more_than_its_limit(windows: Windows) -> None:
    limits = window_limits((RateLimitItemPerSecond(4),))
    dice = random.Random(7)
    allowed: list[float] = []
    end = time.monotonic() + 3
    while time.monotonic() < end:
        decision = windows.acquire("busy", limits)
        if decision.allowed:
            allowed.append(decision.now)
        time.sleep(dice.random() / 20)
    assert len(allowed) >= 12
    # A hair less than the second, for the clock's last digits.
    assert all(later - first >= 0.9999 for first, later in zip(allowed, allowed[4:], strict=False))


def test_a_refusal_takes_from_none(windows: Windows) -> None:
    items = parsed("1/hour;3/day")
    assert windows.acquire("two", items).allowed
    for _ in range(5):
        assert not windows.acquire("two", items).allowed
    used = {window.limit.length: window.used for window in windows.acquire("two", items).states}
    assert used == {3600: 1, 86400: 1}


def test_a_verdict_tells_what_is_left_and_until_when(windows: Windows) -> None:
    items = parsed("2/minute;100/day")
    first, second, third = (windows.acquire("told", items) for _ in range(3))
    assert [v.tightest.remaining for v in (first, second, third)] == [1, 0, 0]
    assert [v.allowed for v in (first, second, third)] == [True, True, False]
    assert 59 <= third.retry_after <= 60
    assert abs(third.tightest.reset - (first.now + 60)) < 0.1


def test_buckets_do_not_touch_each_other(windows: Windows) -> None:
    items = parsed("1/minute")
    assert windows.acquire("a", items).allowed
    assert windows.acquire("b", items).allowed
    assert not windows.acquire("a", items).allowed


def test_local_windows_are_shared_out_among_the_workers() -> None:
    acquire: Callable[[], bool] = lambda: local.acquire("x", parsed("10/minute")).allowed  # noqa: E731
    local = LocalRateLimits(workers=4)
    assert [acquire() for _ in range(3)] == [True, True, False]
    local = LocalRateLimits(workers=100)
    assert [acquire() for _ in range(2)] == [True, False]
