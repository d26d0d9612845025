"""One suite for the limits on requests: counted in Redis, and by a process for itself."""

from __future__ import annotations

import random
import time

import pytest
from limits import RateLimitItemPerSecond, parse_many

from tests.support.servers import Valkey, free_port, wait_until
from webapp.admission.limit_states import LEASE_TTL, Limit, window_limits
from webapp.admission.rate_limits import SECOND, RateLimits
from webapp.admission.token_limits import TokenRateLimits
from webapp.storage.redis_client import RedisClient

DAY = Limit("day", "requests_per_day", 3, 86_400)
PARALLEL = Limit("parallel", "parallel_requests", 2, LEASE_TTL)
AWAY = f"redis://127.0.0.1:{free_port()}/0"
TOKENS = Limit("tokens", "tokens_per_minute", 100, 60)


def parsed(notation: str) -> tuple[Limit, ...]:
    return window_limits(tuple(parse_many(notation)))


def counted_today(bucket: str) -> int:
    """What the database has of this day, where neither Redis nor the process knows."""
    return 2 if bucket == "counted" else 0


@pytest.fixture(params=["redis", "process", "redis away"])
def redis(request: pytest.FixtureRequest) -> RedisClient | None:
    if request.param == "redis":
        return RedisClient(request.getfixturevalue("fresh_valkey").url)
    return RedisClient(AWAY) if request.param == "redis away" else None


@pytest.fixture
def token_limits(redis: RedisClient | None) -> TokenRateLimits:
    return TokenRateLimits(redis, 1)


@pytest.fixture
def limits(redis: RedisClient | None, token_limits: TokenRateLimits) -> RateLimits:
    return RateLimits(redis, 1, counted_today, token_limits.used_here)


def used(limits: RateLimits, bucket: str, *each: Limit) -> list[int]:
    return [state.used for state in limits.peek(bucket, each).states]


def test_no_window_ever_has_more_than_its_limit(limits: RateLimits) -> None:
    four = window_limits((RateLimitItemPerSecond(4),))
    dice = random.Random(7)
    allowed: list[float] = []
    end = time.monotonic() + 2.2
    while time.monotonic() < end:
        decision = limits.acquire("busy", four)
        if decision.allowed:
            allowed.append(decision.now)
        time.sleep(dice.random() / 20)
    assert len(allowed) >= 8
    # A hair less than the second, for the clock's last digits.
    assert all(later - first >= 0.9999 for first, later in zip(allowed, allowed[4:], strict=False))


def test_a_look_at_many_buckets_finds_what_a_look_at_each_does(limits: RateLimits) -> None:
    """And trusts what it is told of the day, instead of asking for each bucket."""
    windows = parsed("5/minute")
    each = {f"{number} of many": (*windows, DAY, PARALLEL) for number in range(300)}
    each |= {"none of them": (), "windows alone": windows}
    for bucket in ("7 of many", "windows alone"):
        assert limits.acquire(bucket, each[bucket]).allowed
    found = limits.peek_all(each, {"8 of many": 3})
    assert list(found) == list(each)
    seen = {bucket: [state.used for state in one.states] for bucket, one in found.items()}
    assert seen.pop("8 of many") == [0, 3, 0]
    assert seen == {bucket: used(limits, bucket, *each[bucket]) for bucket in seen}
    assert (seen["7 of many"], seen["windows alone"]) == ([1, 1, 1], [1])


def test_a_refusal_takes_from_none(limits: RateLimits) -> None:
    each = (*parsed("1/hour;3/day"), DAY, PARALLEL)
    assert limits.acquire("two", each).allowed
    for _ in range(5):
        assert not limits.acquire("two", each, "another").allowed
    assert used(limits, "two", *each) == [1, 1, 1, 1]


def test_a_decision_tells_what_is_left_and_until_when(limits: RateLimits) -> None:
    each = parsed("2/minute;100/day")
    first, second, third = (limits.acquire("told", each) for _ in range(3))
    assert [one.tightest.remaining for one in (first, second, third)] == [1, 0, 0]
    assert [one.allowed for one in (first, second, third)] == [True, True, False]
    assert 59 <= third.retry_after <= 60
    assert abs(third.tightest.reset - (first.now + 60)) < 0.1


def test_buckets_do_not_touch_each_other(limits: RateLimits) -> None:
    each = (*parsed("1/minute"), DAY, PARALLEL)
    assert limits.acquire("a", each).allowed
    assert limits.acquire("b", each).allowed
    assert not limits.acquire("a", each).allowed


def test_who_only_peeks_takes_nothing(limits: RateLimits) -> None:
    each = (*parsed("1/minute"), DAY, PARALLEL)
    for _ in range(3):
        assert limits.peek("peeked", each).allowed
    assert used(limits, "peeked", *each) == [0, 0, 0]


def test_a_day_goes_on_from_what_the_database_has_counted(limits: RateLimits) -> None:
    assert limits.acquire("counted", [DAY]).allowed
    refused = limits.acquire("counted", [DAY])
    assert not refused.allowed
    assert refused.exhausted.limit is DAY
    # Until midnight UTC.
    assert refused.exhausted.reset % 86_400 == 0
    assert 0 < refused.exhausted.reset - refused.now <= 86_400


def test_a_place_among_the_parallel_requests_comes_free_with_the_end_of_one(
    limits: RateLimits,
) -> None:
    assert limits.acquire("parallel", [PARALLEL], "one").allowed
    assert limits.acquire("parallel", [PARALLEL], "two").allowed
    refused = limits.acquire("parallel", [PARALLEL], "three")
    assert (refused.allowed, refused.retry_after) == (False, 1)
    limits.release("parallel", "unknown")
    assert not limits.acquire("parallel", [PARALLEL], "three").allowed
    limits.tick()
    limits.release("parallel", "one")
    assert limits.acquire("parallel", [PARALLEL], "three").allowed
    assert not limits.acquire("parallel", [PARALLEL], "four").allowed


def test_tokens_are_shown_and_refuse_no_request(
    limits: RateLimits, token_limits: TokenRateLimits
) -> None:
    each = (*parsed("5/minute"), TOKENS)
    for reserved, remaining in [(40, 60), (60, 0)]:
        token_limits.reserve("tokens", TOKENS.amount, reserved, named=True)
        decision = limits.acquire("tokens", each)
        assert decision.allowed
        assert decision.tokens
        assert (decision.tokens.limit, decision.tokens.remaining) == (TOKENS, remaining)


# Where the two must differ: what one process knows of the others.


@pytest.fixture
def two_processes(fresh_valkey: Valkey) -> tuple[RateLimits, RateLimits]:
    first, second = (RateLimits(RedisClient(fresh_valkey.url), 2) for _ in range(2))
    return first, second


def test_processes_share_their_limits_through_redis(
    two_processes: tuple[RateLimits, RateLimits],
) -> None:
    first, second = two_processes
    for limit in (*parsed("2/minute"), Limit("day", "d", 2, 86_400), PARALLEL):
        assert first.acquire("shared", [limit], "one").allowed
        assert second.acquire("shared", [limit], "two").allowed
        assert not first.acquire("shared", [limit], "three").allowed
        assert used(second, "shared", limit) == [2]


def test_the_lease_of_a_parallel_request_is_renewed_by_its_process_only(
    two_processes: tuple[RateLimits, RateLimits], fresh_valkey: Valkey
) -> None:
    alive, killed = two_processes
    alive.acquire("leased", [PARALLEL], "alive")
    killed.acquire("leased", [PARALLEL], "killed")
    with fresh_valkey.client() as client:
        [key] = client.keys("*leased*")
        # As if almost all of the lease had passed.
        seconds, microseconds = client.time()
        soon = (seconds + 0.3) * SECOND + microseconds
        client.zadd(key, {"alive": soon, "killed": soon})
    alive.tick()
    wait_until(lambda: used(alive, "leased", PARALLEL) == [1], 3)
    assert alive.acquire("leased", [PARALLEL], "next").allowed


@pytest.mark.parametrize(("workers", "share"), [(4, 2), (100, 1)])
def test_while_redis_is_away_each_worker_has_its_share(workers: int, share: int) -> None:
    alone = RateLimits(RedisClient(AWAY), workers)
    decisions = [alone.acquire("x", parsed("10/minute")) for _ in range(share + 1)]
    assert [one.allowed for one in decisions] == [True] * share + [False]
    assert decisions[-1].tightest.remaining == 0
