"""Who gets in: the ways to send a key, what is refused and how, and how fast a revocation works."""

from __future__ import annotations

import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import pytest
import requests

from tests.conftest import MakeWeir
from tests.support.servers import Postgres, Provider, Valkey, Weir, wait_until

BODY = {"message": "hello"}
KEY = "test_key_0123456789"
# One whose requests are counted in the database.
COUNTED = "counted_key_0123456789"


@pytest.fixture(scope="module")
def weir(start_shared_weir: MakeWeir) -> Weir:
    return start_shared_weir(TIERS="free=900/minute;premium=900/minute", TRUSTED_PROXIES=1)


@pytest.fixture(scope="module")
def with_stores(
    start_shared_weir: MakeWeir,
    fresh_shared_valkey: Valkey,
    fresh_shared_database: str,
    provider: Provider,
) -> Weir:
    """It has a database that can be stopped, and an answer in its cache."""
    weir = start_shared_weir(
        REDIS_URL=fresh_shared_valkey.url, DATABASE_URL=fresh_shared_database, WEB_CONCURRENCY=1,
        API_KEYS=f"test:enterprise:{KEY},counted:premium:{COUNTED}",
        TIER_PREMIUM="requests_per_session=1000", OPENAI_BASE_URL=provider.base_url,
    )  # fmt: skip
    assert chat(weir, {"X-API-Key": KEY}).status_code == 200
    return weir


def chat(weir: Weir, headers: dict[str, str]) -> requests.Response:
    return weir.post("/chat", headers=headers, json=BODY)


@pytest.mark.parametrize(
    "headers",
    [
        {"X-API-Key": "prod_key_456"},
        {"api-key": "prod_key_456"},
        {"Authorization": "Bearer prod_key_456"},
        {"Authorization": "bearer prod_key_456", "X-API-Key": "prod_key_456"},
    ],
)
def test_a_key_may_be_sent_in_three_ways(weir: Weir, headers: dict[str, str]) -> None:
    assert chat(weir, headers).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 403),
        ({"X-API-Key": "wrong"}, 403),
        ({"api-key": "wrong"}, 403),
        ({"Authorization": "Bearer wrong"}, 401),
        ({"Authorization": "Basic cHJvZF9rZXlfNDU2"}, 401),
        ({"Authorization": "Bearer"}, 401),
        ({"Authorization": "Bearer prod_key_456", "X-API-Key": "dev_key_123"}, 400),
        ({"X-API-Key": "prod_key_456", "api-key": "dev_key_123"}, 400),
    ],
)
def test_what_is_refused_says_so_in_its_family(
    weir: Weir, headers: dict[str, str], status: int
) -> None:
    response = chat(weir, {**headers, "X-Forwarded-For": "127.0.0.9"})
    assert response.status_code == status
    assert ("WWW-Authenticate" in response.headers) == (status == 401)
    assert "X-RateLimit-Limit" not in response.headers


def test_demo_keys_work_from_this_machine_only(weir: Weir) -> None:
    for address, status in (("127.0.0.1", 200), ("::1", 200), ("203.0.113.9", 403)):
        headers = {"X-API-Key": "dev_key_123", "X-Forwarded-For": address}
        assert chat(weir, headers).status_code == status, address


def test_no_key_is_kept_in_the_clear(weir: Weir) -> None:
    created = weir.run_flask("keys", "create", "Kept").stdout.strip()
    assert re.fullmatch(r"weir_[A-Za-z0-9]{12}_[A-Za-z0-9_-]{43}", created)
    assert chat(weir, {"X-API-Key": created}).status_code == 200
    kept = b"".join(path.read_bytes() for path in Path(weir.data_dir).glob("weir.db*"))
    assert b"Kept" in kept
    assert created.encode() not in kept
    assert created.split("_", 2)[2].encode() not in kept


def test_wrong_keys_are_limited_by_address_and_the_right_one_is_not(weir: Weir) -> None:
    address = {"X-Forwarded-For": "127.0.0.77"}
    statuses = [chat(weir, {**address, "X-API-Key": f"wrong{n}"}).status_code for n in range(31)]
    assert statuses == [403] * 30 + [429]
    refused = chat(weir, {**address, "Authorization": "Bearer wrong"})
    assert refused.status_code == 429
    assert 0 < int(refused.headers["Retry-After"]) <= 60
    assert chat(weir, {**address, "X-API-Key": "prod_key_456"}).status_code == 200


def key_id(weir: Weir, name: str) -> str:
    """The id of the key with this name."""
    listed = json.loads(weir.run_flask("keys", "list", "--json").stdout)
    return str(next(key["id"] for key in listed if key["name"] == name))


def test_a_revoked_key_stops_working_on_every_worker(
    start_weir: MakeWeir, fresh_valkey: Valkey, fresh_database: str
) -> None:
    weir = start_weir(
        REDIS_URL=fresh_valkey.url, DATABASE_URL=fresh_database, WEB_CONCURRENCY=2,
        TIERS="free=9999/minute", API_KEYS="", TRUSTED_PROXIES=1,
    )  # fmt: skip
    key = weir.run_flask("keys", "create", "Short-lived").stdout.strip()
    assert [chat(weir, {"X-API-Key": key}).status_code for _ in range(20)] == [200] * 20
    assert weir.run_flask("keys", "revoke", key_id(weir, "Short-lived")).returncode == 0

    def refused_everywhere() -> bool:
        # From another address each time: wrong keys are limited by address.
        addresses = (f"10.0.{next(numbers)}.1" for _ in range(20))
        headers = ({"X-API-Key": key, "X-Forwarded-For": address} for address in addresses)
        return all(chat(weir, each).status_code == 403 for each in headers)

    numbers = count(1)

    wait_until(refused_everywhere, 5, "the revocation")


def test_the_keys_of_the_settings_are_taken_over_by_name(
    new_weir: MakeWeir, tmp_path: Path
) -> None:
    def statuses(api_keys: str, *keys: str, revoke: bool = False) -> list[int]:
        weir = new_weir(data_dir=tmp_path, API_KEYS=api_keys).start()
        found = [chat(weir, {"X-API-Key": key}).status_code for key in keys]
        if revoke:
            assert weir.run_flask("keys", "revoke", key_id(weir, "shop")).returncode == 0
        weir.stop()
        return found

    assert statuses("shop:free:shop-key-0000001", "shop-key-0000001") == [200]
    keys = ("shop-key-0000001", "shop-key-0000002")
    assert statuses("shop:free:shop-key-0000002", *keys) == [403, 200]
    assert statuses("shop:free:shop-key-0000001", *keys, revoke=True) == [200, 403]
    assert statuses("shop:free:shop-key-0000001", *keys) == [403, 403]
    assert statuses("shop:free:shop-key-0000003", "shop-key-0000003") == [200]


def test_an_expired_key_is_not_served_from_memory_while_the_database_is_away(
    with_stores: Weir, postgres: Postgres
) -> None:
    weir = with_stores
    expiring = weir.run_flask("keys", "create", "Expiring", "--expires", "6s").stdout.strip()
    keys = ({"X-API-Key": KEY}, {"X-API-Key": expiring})
    assert [chat(weir, key).status_code for key in keys] == [200, 200]
    postgres.stop()
    try:
        wait_until(lambda: chat(weir, keys[1]).status_code == 503, 15, "the expiry")
        assert chat(weir, keys[0]).headers["X-Cache"] == "HIT"
    finally:
        postgres.start()
    wait_until(lambda: chat(weir, keys[1]).status_code == 403, 15, "the recovery")


@pytest.mark.parametrize("outage", ["stop", "pause"])
def test_without_its_database_weir_calls_no_key_invalid(
    with_stores: Weir, postgres: Postgres, outage: str
) -> None:
    weir = with_stores
    for key in (KEY, COUNTED):
        assert chat(weir, {"X-API-Key": key}).status_code == 200
    getattr(postgres, outage)()
    # Both keys are still known, but this one's request cannot be counted.
    assert chat(weir, {"X-API-Key": COUNTED}).headers["X-Cache"] == "HIT"
    refused = weir.post("/chat", key=COUNTED, json={"message": f"uncached {outage}"})
    assert (refused.status_code, refused.json()["error"]) == (503, "StoreUnavailable")

    def uncached() -> requests.Response:
        headers = {"Cache-Control": "no-store"}
        return weir.post("/chat", key=KEY, json=BODY, headers=headers)

    wait_until(lambda: uncached().status_code == 503, 15, "the outage")
    cached = chat(weir, {"X-API-Key": KEY})
    assert (cached.status_code, cached.headers["X-Cache"]) == (200, "HIT")
    assert uncached().json()["error"] == "StoreUnavailable"
    assert chat(weir, {"X-API-Key": "unknown-key-0000"}).status_code == 503
    assert weir.get("/health").status_code == 503
    # One request may wait for the database; the others are not held up behind it.
    with ThreadPoolExecutor(10) as pool:
        began = time.monotonic()
        assert set(pool.map(lambda _: uncached().status_code, range(20))) == {503}
        assert time.monotonic() - began < 8
    postgres.start()
    wait_until(lambda: uncached().status_code == 200, 15, "the recovery")
    assert weir.get("/health").status_code == 200
