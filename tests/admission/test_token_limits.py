"""One suite for tokens a minute: counted in Redis, and by a process for itself."""

from __future__ import annotations

import pytest

from tests.support.servers import Valkey, free_port
from webapp.admission.token_limits import TokenRateLimits
from webapp.errors import RateLimitExceeded
from webapp.storage.redis_client import RedisClient

AWAY = f"redis://127.0.0.1:{free_port()}/0"
LIMIT = 100


@pytest.fixture(params=["redis", "process", "redis away"])
def limits(request: pytest.FixtureRequest) -> TokenRateLimits:
    redis = None
    if request.param == "redis":
        redis = RedisClient(request.getfixturevalue("fresh_valkey").url)
    elif request.param == "redis away":
        redis = RedisClient(AWAY)
    return TokenRateLimits(redis, 1)


def refusal(limits: TokenRateLimits, bucket: str, tokens: int, **said: bool) -> RateLimitExceeded:
    with pytest.raises(RateLimitExceeded) as refused:
        limits.reserve(bucket, LIMIT, tokens, **{"named": True} | said)
    return refused.value


def test_reservations_fill_the_limit_and_no_more(limits: TokenRateLimits) -> None:
    limits.reserve("full", LIMIT, 60, named=True)
    limits.reserve("full", LIMIT, 40, named=True)
    refusal(limits, "full", 1)
    limits.reserve("another", LIMIT, 100, named=True)


def test_a_refusal_takes_nothing_and_says_what_is_left_and_until_when(
    limits: TokenRateLimits,
) -> None:
    limits.reserve("told", LIMIT, 70, named=True)
    for _ in range(2):
        refused = refusal(limits, "told", 31)
        assert "30 left" in refused.message
        assert refused.retry_after is not None
        assert 59 <= refused.retry_after <= 60
        assert refused.details is not None
        assert {**refused.details, "reset": None} == {
            "limit": "tokens_per_minute", "size": LIMIT, "used": 70, "reset": None,
        }  # fmt: skip
    limits.reserve("told", LIMIT, 30, named=True)


def test_what_was_reserved_is_replaced_by_what_was_used(limits: TokenRateLimits) -> None:
    first = limits.reserve("settled", LIMIT, 90, named=True)
    limits.settle(first, 20)
    second = limits.reserve("settled", LIMIT, 80, named=True)
    refusal(limits, "settled", 1)
    # More than the ceiling counts too: the provider has written it.
    limits.settle(second, 150)
    assert refusal(limits, "settled", 1).details["used"] == 170  # type: ignore[index]
    limits.settle(second, 0)
    limits.reserve("settled", LIMIT, 80, named=True)


def test_who_names_more_than_the_limit_is_refused_for_good(limits: TokenRateLimits) -> None:
    refused = refusal(limits, "named", LIMIT + 1)
    assert refused.should_retry is False
    assert refused.retry_after is None
    assert "smaller max_tokens" in refused.message


def test_a_call_whose_ceiling_nobody_named_runs_alone_in_its_minute(
    limits: TokenRateLimits,
) -> None:
    reservation = limits.reserve("alone", LIMIT, 5_000, named=False)
    refusal(limits, "alone", 1)
    limits.settle(reservation, 10)
    limits.reserve("alone", LIMIT, 90, named=True)
    refusal(limits, "alone", 5_000, named=False)


def test_processes_share_their_limits_through_redis(fresh_valkey: Valkey) -> None:
    first, second = (TokenRateLimits(RedisClient(fresh_valkey.url), 2) for _ in range(2))
    reservation = first.reserve("shared", LIMIT, 100, named=True)
    refusal(second, "shared", 1)
    second.settle(reservation, 50)
    second.reserve("shared", LIMIT, 50, named=True)
    refusal(first, "shared", 1)
    assert second.used_here("shared") == 50, "it goes on counting if Redis goes away"


@pytest.mark.parametrize(("workers", "share"), [(4, 25), (1_000, 1)])
def test_while_redis_is_away_each_worker_has_its_share(workers: int, share: int) -> None:
    alone = TokenRateLimits(RedisClient(AWAY), workers)
    alone.reserve("x", LIMIT, share, named=True)
    refusal(alone, "x", 1)
    assert alone.used_here("x") == share
