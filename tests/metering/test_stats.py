"""/stats agrees with what was sent: all workers, at once, and after a restart."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conftest import MakeWeir
from tests.support.books import INPUT, OUTPUT, PRICES
from tests.support.servers import Provider, Valkey, Weir, wait_until

KEYS = ("test_key_0123456789", "test_kez_0000006789", "other_key_012345678")
API_KEYS = ",".join(f"key{n}:enterprise:{key}" for n, key in enumerate(KEYS))


def send(weir: Weir) -> None:
    """3 misses, 5 hits, 1 invalid, 1 failed; and 2 that are not admitted."""
    for key in KEYS:
        assert weir.post("/chat", key=key, json={"message": f"by {key}"}).status_code == 200
    for _ in range(5):
        assert weir.post("/chat", key=KEYS[0], json={"message": f"by {KEYS[0]}"}).ok
    assert weir.post("/chat", key=KEYS[1], json={}).status_code == 422
    failing = {"message": "fail [[fault:status=500]]"}
    assert weir.post("/chat", key=KEYS[2], json=failing).status_code == 502
    assert weir.post("/chat", key="wrong-key-00000", json={}).status_code == 403
    assert weir.post("/chat", json={}).status_code == 403


def figures(weir: Weir, requests: int, key: str | None = None) -> dict[str, Any]:
    def complete() -> dict[str, Any] | None:
        stats = weir.get("/stats", key=key).json()
        return stats if stats["total_requests"] >= requests else None

    found = wait_until(complete, 2, f"{requests} requests in /stats")
    assert found is not None
    return found


@pytest.mark.parametrize("store", ["sqlite", "postgresql"])
def test_stats_agree_with_what_was_sent_before_and_after_a_restart(
    start_weir: MakeWeir,
    fresh_valkey: Valkey,
    fresh_database: str,
    provider: Provider,
    store: str,
) -> None:
    database = {"DATABASE_URL": fresh_database} if store == "postgresql" else {}
    weir = start_weir(
        **database, API_KEYS=API_KEYS, REDIS_URL=fresh_valkey.url, WEB_CONCURRENCY=2,
        OPENAI_BASE_URL=provider.base_url, MODEL_PRICES=PRICES,
    )  # fmt: skip
    send(weir)
    expected = {
        "total_requests": 10,
        "cache_hits": 5,
        "cache_misses": 3,
        "cache_hit_rate": 0.625,
        "total_api_keys": 3,
        "requests_by_key": None,
    }
    assert figures(weir, 10) | {"requests_by_key": None} == expected
    by_key = figures(weir, 10)["requests_by_key"]
    assert isinstance(by_key, dict)
    # Two keys look alike; their ids tell them apart.
    assert sorted(by_key.values()) == [2, 2, 6]
    assert {mask.partition("#")[0] for mask in by_key} == {"test***6789", "othe***5678"}
    assert weir.terminate() == 0
    weir.start()
    assert figures(weir, 10) == expected | {"requests_by_key": by_key}
    more = figures(weir, 10, KEYS[2])
    assert more["errors"] == 1
    # Three answers were bought, each of 2 + 3 words; five of them were served again.
    assert (more["tokens"], more["saved_tokens"]) == (15, 25)
    assert more["cost_usd"] == pytest.approx(3 * (2 * INPUT + 3 * OUTPUT) / 1e9)
    assert more["saved_usd"] == pytest.approx(5 * (2 * INPUT + 3 * OUTPUT) / 1e9)
    own = (2 * INPUT + 3 * OUTPUT) / 1e9
    assert more["you"] == {
        "api_key": "othe***5678", "requests": 2, "tokens": 5, "cost_usd": pytest.approx(own),
        "saved_usd": 0,
    }  # fmt: skip
    latency = more["latency_ms"]
    assert isinstance(latency, dict)
    assert 0 < latency["p50"] <= latency["p95"] <= latency["p99"]
    assert str(more["since"])[:2] == "20"


@pytest.fixture(scope="module")
def small_weir(start_shared_weir: MakeWeir, provider: Provider) -> Weir:
    """One worker on SQLite."""
    return start_shared_weir(
        API_KEYS=API_KEYS, OPENAI_BASE_URL=provider.base_url, STATS_ACCESS="key"
    )


def test_sigterm_writes_the_last_counters(small_weir: Weir) -> None:
    before = small_weir.get("/stats", key=KEYS[2]).json()
    assert small_weir.post("/chat", key=KEYS[2], json={"message": "last"}).ok
    assert small_weir.terminate() == 0
    small_weir.start()
    after = small_weir.get("/stats", key=KEYS[2]).json()
    assert after["total_requests"] == before["total_requests"] + 1
    assert after["you"]["requests"] == 1


def test_stats_may_be_kept_for_keys(small_weir: Weir) -> None:
    assert small_weir.get("/stats").status_code == 403
    assert small_weir.get("/stats", key=KEYS[0]).status_code == 200
    assert small_weir.get("/stats", headers={"Authorization": "Bearer wrong"}).status_code == 401


def test_a_stream_that_the_provider_cut_is_an_error_and_one_that_was_left_is_not(
    small_weir: Weir, provider: Provider
) -> None:
    before = small_weir.get("/stats", key=KEYS[0]).json()
    provider.fault(cut=True)
    with small_weir.stream("/chat", {"message": "cut", "stream": True}, KEYS[0]) as stream:
        list(stream)
    provider.fault(gap=0.1, pieces=500)
    with small_weir.stream("/chat", {"message": "left", "stream": True}, KEYS[0]) as stream:
        next(stream)
    after = figures(small_weir, before["total_requests"] + 2, KEYS[0])
    assert after["errors"] == before["errors"] + 1
