"""Tier limits at the endpoints: exact, shared, honest about when, and no hostage of Redis."""

from __future__ import annotations

import math
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import pytest
import requests

from tests.conftest import MakeWeir
from tests.support.servers import Valkey, Weir, wait_until

BODY = {"message": "hello"}
KEY, OTHER_KEY = "test_key_0123456789", "other_key_0123456789"
TIERS = "free=3/3second;premium=30/minute;enterprise=2/second,5/minute"

numbers = count(1)


@pytest.fixture(scope="module")
def weir(start_shared_weir: MakeWeir) -> Weir:
    """It has the tiers and the demo keys that Weir has where nothing is set."""
    return start_shared_weir()


@pytest.fixture(scope="module")
def tiered(start_shared_weir: MakeWeir) -> Weir:
    """It has other tiers, and counts by itself."""
    return start_shared_weir(TIERS=TIERS, WEB_CONCURRENCY=1)


@pytest.fixture(scope="module")
def with_redis(start_shared_weir: MakeWeir, fresh_shared_valkey: Valkey) -> Weir:
    """It has the same tiers, and counts in Redis."""
    return start_shared_weir(TIERS=TIERS, WEB_CONCURRENCY=1, REDIS_URL=fresh_shared_valkey.url)


def new_key(weir: Weir, tier: str) -> str:
    name = f"Key {next(numbers)}"
    return weir.run_flask("keys", "create", name, "--tier", tier).stdout.strip()


def chat(weir: Weir, key: str = KEY, path: str = "/chat") -> requests.Response:
    return weir.post(path, key=key, json=BODY)


def test_five_pass_and_the_sixth_is_refused_with_a_true_retry_after(weir: Weir) -> None:
    statuses = [chat(weir, "dev_key_123").status_code for _ in range(6)]
    assert statuses == [200] * 5 + [429]
    refused = chat(weir, "dev_key_123")
    assert 0 < int(refused.headers["Retry-After"]) <= 60
    details = refused.json()["details"]
    assert (details["size"], details["used"]) == (5, 5)
    assert [chat(weir, "prod_key_456").status_code for _ in range(21)] == [200] * 20 + [429]


def test_the_next_request_passes_when_retry_after_says_so(tiered: Weir) -> None:
    key = new_key(tiered, "free")
    assert [chat(tiered, key).status_code for _ in range(3)] == [200] * 3
    refused = chat(tiered, key)
    assert refused.status_code == 429
    until = time.monotonic() + int(refused.headers["Retry-After"])
    wait_until(lambda: time.monotonic() >= until)
    assert chat(tiered, key).status_code == 200


def test_the_headers_tell_what_is_left(weir: Weir) -> None:
    response = chat(weir, new_key(weir, "free"))
    assert response.headers["X-RateLimit-Limit"] == "5"
    assert response.headers["X-RateLimit-Remaining"] == "4"
    assert 58 <= int(response.headers["X-RateLimit-Reset"]) - time.time() <= 61
    assert "Retry-After" not in response.headers


def test_all_doors_share_one_bucket_and_invalid_requests_count(weir: Weir) -> None:
    key = new_key(weir, "free")
    assert chat(weir, key, "/v1/chat").status_code == 200
    invalid = weir.post("/chat", key=key, json={"massage": "typo"})
    assert (invalid.status_code, invalid.headers["X-RateLimit-Remaining"]) == (422, "3")
    assert weir.post("/generate", key=key, json={"prompt": "x"}).status_code == 200
    assert weir.post("/summarize", key=key, json={"text": "A text of some length."}).ok
    assert weir.post("/v1/generate", key=key, json={"prompt": "x"}).status_code == 200
    assert chat(weir, key).status_code == 429


@pytest.mark.parametrize("counting", ["tiered", "with_redis"])
def test_several_limits_pass_or_fail_as_one(request: pytest.FixtureRequest, counting: str) -> None:
    weir: Weir = request.getfixturevalue(counting)
    key = new_key(weir, "enterprise")
    passed = 0
    give_up_at = time.monotonic() + 10
    while passed < 5 and time.monotonic() < give_up_at:
        passed += chat(weir, key).status_code == 200
    assert passed == 5, "what was refused by the second must not count for the minute"
    refused = chat(weir, key)
    assert refused.status_code == 429
    assert "minute" in refused.json()["details"]["limit"]


@pytest.fixture(scope="module")
def weirs(
    start_shared_weir: MakeWeir, fresh_shared_valkey: Valkey, fresh_shared_database: str
) -> tuple[Weir, Weir]:
    """Two servers of two workers each."""
    settings = {
        "REDIS_URL": fresh_shared_valkey.url,
        "DATABASE_URL": fresh_shared_database,
        "WEB_CONCURRENCY": 2,
        "API_KEYS": f"test:premium:{KEY},other:premium:{OTHER_KEY}",
    }
    return start_shared_weir(**settings), start_shared_weir(**settings)


def test_limits_are_exact_across_workers_and_servers(
    weirs: tuple[Weir, Weir], valkey: Valkey
) -> None:
    with ThreadPoolExecutor(30) as pool:
        statuses = list(pool.map(lambda n: chat(weirs[n % 2]).status_code, range(90)))
    assert sorted(statuses) == [200] * 20 + [429] * 70


@pytest.mark.parametrize("outage", ["stop", "pause"])
def test_redis_away_costs_no_request_and_little_time(
    with_redis: Weir, valkey: Valkey, outage: str
) -> None:
    weir, key = with_redis, new_key(with_redis, "premium")
    assert chat(weir, key).headers["X-RateLimit-Remaining"] == "29"
    getattr(valkey, outage)()
    slowest = 0.0
    for _ in range(10):
        began = time.monotonic()
        assert chat(weir, key).status_code == 200
        slowest = max(slowest, time.monotonic() - began)
    # 0.3 s for Redis, and what the request itself takes on a busy machine.
    assert slowest < 0.8
    health = weir.get("/health").json()
    assert (health["status"], health["checks"]["cache"]) == ("degraded", "degraded")
    assert weir.get("/readiness").status_code == 200
    valkey.start()

    def back() -> bool:
        return bool(weir.get("/health").json()["checks"]["cache"] == "healthy")

    wait_until(back, 5, "the recovery")
    assert chat(weir, key).status_code == 200


def test_each_worker_allows_its_share_while_redis_is_away(
    weirs: tuple[Weir, Weir], valkey: Valkey
) -> None:
    valkey.stop()
    passed = sum(chat(weirs[0], OTHER_KEY).status_code == 200 for _ in range(60))
    assert 5 <= passed <= 20


def test_the_time_of_a_reset_is_redis_s(fresh_valkey: Valkey) -> None:
    from limits import parse_many

    from webapp.admission.limit_states import window_limits
    from webapp.admission.rate_limits import RateLimits
    from webapp.storage.redis_client import RedisClient

    windows = RateLimits(RedisClient(fresh_valkey.url), workers=1)
    decision = windows.acquire("bucket", window_limits(tuple(parse_many("1/minute"))))
    with fresh_valkey.client() as client:
        seconds, microseconds = client.time()
    assert math.isclose(decision.now, seconds + microseconds / 1e6, abs_tol=1)
    assert math.isclose(decision.states[0].reset, decision.now + 60, abs_tol=0.01)
