"""Where every provider fails, an expired answer is better than none."""

from __future__ import annotations

import html
import re
import time
from typing import Any

import pytest

from tests.conftest import MakeWeir
from tests.support import administrator
from tests.support.servers import Provider, Valkey, Weir
from tests.support.visitor import Visitor, text_of

KEY = "test_key_0123456789"
OPENAI = "/v1/chat/completions"
SETTINGS = {
    **administrator.SETTINGS,
    "API_KEYS": f"test:enterprise:{KEY}",
    "TIERS": "enterprise=99999/minute",
    "DEFAULT_MODEL": "stand-in-1",
    "CACHE_TTL": 1,
    "LLM_MAX_RETRIES": 0,
    "LLM_TIMEOUT": 0.6,
    "BREAKER_FAILURES": 1_000_000,
}
BODIES: dict[str, dict[str, Any]] = {
    "/chat": {"message": "kept"},
    OPENAI: {"messages": [{"role": "user", "content": "kept"}]},
}


@pytest.fixture(scope="module", params=["memory", "redis"])
def weir(
    request: pytest.FixtureRequest,
    start_shared_weir: MakeWeir,
    provider: Provider,
    fresh_shared_valkey: Valkey,
) -> Weir:
    settings = SETTINGS | {"OPENAI_BASE_URL": provider.base_url}
    if request.param == "redis":
        settings |= {"REDIS_URL": fresh_shared_valkey.url, "WEB_CONCURRENCY": 1}
    return start_shared_weir(**settings)


COST = re.compile(r": x-weir-cost-usd=\S+\n\n")


def expired(weir: Weir, path: str, body: dict[str, Any]) -> str:
    """Ask, and wait until the answer is no longer fresh."""
    answer = weir.post(path, key=KEY, json=body)
    assert answer.headers["X-Cache"] == "MISS", answer.text
    time.sleep(1.1)  # nothing to wait for but the time itself
    return answer.text


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize("path", BODIES)
def test_an_expired_answer_stands_in_for_failing_providers(
    weir: Weir, provider: Provider, path: str, streamed: bool
) -> None:
    body = BODIES[path] | {"stream": streamed, "temperature": 0.1 + streamed}
    kept = expired(weir, path, body)
    for fault in ({"status": 500}, {"status": 429}, {"status": 401}, {"hang": True}):
        provider.fault(**fault)
        answer = weir.post(path, key=KEY, json=body)
        assert (answer.status_code, answer.headers["X-Cache"]) == (200, "STALE"), fault
        assert int(answer.headers["Age"]) >= 1
        if path == OPENAI:
            # An answer from the cache costs nothing.
            assert COST.sub("", answer.text) == COST.sub("", kept)
        elif not streamed:
            assert (answer.json()["cached"], answer.json()["cost_usd"]) == (True, 0)
    provider.fault()
    assert weir.post(path, key=KEY, json=body).headers["X-Cache"] == "MISS"


def test_a_mistake_of_the_caller_is_told_all_the_same(weir: Weir, provider: Provider) -> None:
    body = {"message": "mistaken"}
    expired(weir, "/chat", body)
    provider.fault(status=400)
    assert weir.post("/chat", key=KEY, json=body).status_code == 400


@pytest.mark.parametrize("control", ["no-cache", "no-store", "max-age=1"])
def test_who_wants_nothing_old_gets_the_error(weir: Weir, provider: Provider, control: str) -> None:
    body = {"message": f"nothing old {control}"}
    expired(weir, "/chat", body)
    provider.fault(status=500)
    answer = weir.post("/chat", key=KEY, json=body, headers={"Cache-Control": control})
    assert answer.status_code == 502


def test_stale_answers_count_as_hits(weir: Weir, provider: Provider) -> None:
    body = {"message": "counted"}
    expired(weir, "/chat", body)
    before = weir.get("/stats").json()["cache_hits"]
    provider.fault(status=500)
    weir.post("/chat", key=KEY, json=body)
    assert weir.get("/stats").json()["cache_hits"] == before + 1


def test_the_number_of_answers_from_the_cache_leads_to_the_stale_ones_too(
    weir: Weir, provider: Provider
) -> None:
    body = {"message": "listed"}
    expired(weir, "/chat", body)
    provider.fault(status=500)
    stale = weir.post("/chat", key=KEY, json=body).headers["X-Request-ID"]
    visitor = Visitor(weir)
    visitor.sign_in()
    page = visitor.get("/dashboard/?range=1h").text
    [link] = re.findall(r'<a href="([^"]+)">Cache hit rate<', page)
    [count] = re.findall(r"(\d+) from cache", page)
    listed = visitor.get(html.unescape(link)).text
    assert f" {count} request" in text_of(listed)
    assert f'href="/dashboard/requests/{stale}"' in listed
    uncached = link.replace("cache=cached", "cache=uncached")
    assert stale not in visitor.get(html.unescape(uncached)).text


def test_an_answer_that_is_too_old_does_not_stand_in(
    start_weir: MakeWeir, provider: Provider
) -> None:
    weir = start_weir(**SETTINGS | {"CACHE_STALE_IF_ERROR": 0}, OPENAI_BASE_URL=provider.base_url)
    expired(weir, "/chat", {"message": "too old"})
    provider.fault(status=500)
    assert weir.post("/chat", key=KEY, json={"message": "too old"}).status_code == 502
