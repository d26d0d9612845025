"""Budgets hold under concurrency and across workers, to the last call that fits."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

from tests.conftest import MakeWeir
from tests.support.books import INPUT, OUTPUT, PRICES, Books
from tests.support.servers import Provider, Valkey, Weir, wait_until

OPENAI = "/v1/chat/completions"
SETTINGS = {
    "TIERS": "enterprise=99999/minute",
    "MODEL_PRICES": PRICES,
    "CACHE_TTL": 0,
    "LLM_MAX_RETRIES": 0,
    "BREAKER_FAILURES": 1_000_000,
}
MAX_TOKENS = 100
KEYS = [f"test_key_{number:010d}" for number in range(8)]


def body(said: str) -> dict[str, Any]:
    """A call whose ceiling is CEILING, whatever the number in it."""
    messages = [{"role": "user", "content": said}]
    return {"model": "stand-in-1", "messages": messages, "max_tokens": MAX_TOKENS}


@pytest.fixture(scope="module")
def ceiling(start_shared_weir: MakeWeir, provider: Provider) -> float:
    """USD of one call as body() makes them, as Weir itself says it."""
    weir = start_shared_weir(
        **SETTINGS, API_KEYS=f"t:enterprise:{KEYS[0]}", OPENAI_BASE_URL=provider.base_url
    )
    said = weir.post("/v1/explain", key=KEYS[0], json=body("call 000"))
    return float(said.json()["cost_ceiling_usd"])


@pytest.fixture(params=["sqlite", "postgresql"])
def make_weirs(
    request: pytest.FixtureRequest,
    start_weir: MakeWeir,
    provider: Provider,
    fresh_database: str,
    fresh_valkey: Valkey,
) -> Any:
    """Makes one Weir on SQLite, or two of two workers each on PostgreSQL, with these settings."""

    def make(**settings: object) -> list[Weir]:
        given = SETTINGS | {"OPENAI_BASE_URL": provider.base_url} | settings
        given["API_KEYS"] = ",".join(f"k{n}:enterprise:{key}" for n, key in enumerate(KEYS))
        if request.param == "sqlite":
            return [start_weir(**given)]
        given |= {"DATABASE_URL": fresh_database, "REDIS_URL": fresh_valkey.url}
        return [start_weir(**given, WEB_CONCURRENCY=2) for _ in range(2)]

    return make


def at_once(weirs: list[Weir], count: int, key: str = KEYS[0]) -> list[requests.Response]:
    """The answers to so many different calls at the same time, spread over the Weirs."""

    def ask(number: int) -> requests.Response:
        return weirs[number % len(weirs)].post(
            OPENAI, key=key, json=body(f"call {key[-1]}{number:02d}")
        )

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(ask, range(count)))


def codes(answers: list[requests.Response]) -> Counter[str]:
    return Counter("ok" if a.ok else a.json()["error"]["code"] for a in answers)


@pytest.mark.parametrize("period", ["day", "month"])
def test_with_a_budget_for_n_calls_n_calls_reach_the_provider(
    make_weirs: Any, provider: Provider, ceiling: float, period: str
) -> None:
    weirs = make_weirs(TIER_ENTERPRISE=f"usd_per_{period}={ceiling * 7:.9f}")
    provider.fault(slow=2.0)  # nothing settles before all have asked
    answers = at_once(weirs, 50)
    assert codes(answers) == {"ok": 7, "budget_reserved": 43}
    assert len(provider.completions()) == 7
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert refused.headers["Retry-After"] == "1"
    assert f"per {period}" in refused.json()["error"]["message"]
    Books(weirs[0]).check(provider)


def test_what_settles_below_the_ceiling_is_spent_again_to_the_last_call_that_fits(
    make_weirs: Any, provider: Provider, ceiling: float
) -> None:
    nano = round(ceiling * 1e9)
    weirs = make_weirs(TIER_ENTERPRISE=f"usd_per_day={ceiling * 3:.9f}")
    ended = False
    while not ended:
        answers = at_once(weirs, 10)
        assert set(codes(answers)) <= {"ok", "budget_reserved", "budget_exceeded"}
        ended = codes(answers)["budget_exceeded"] == 10
    rows = Books(weirs[0]).check(provider)
    spent = sum(row["cost_nano"] for row in rows)
    assert spent <= 3 * nano, "the budget is not overrun"
    assert spent + nano > 3 * nano, "not one more call would have fitted"
    over = at_once(weirs, 1)[0]
    assert over.json()["error"]["type"] == "insufficient_quota"
    assert over.headers["x-should-retry"] == "false"
    assert int(over.headers["Retry-After"]) > 1


def test_each_key_of_a_tier_has_a_budget_of_its_own(
    make_weirs: Any, provider: Provider, ceiling: float
) -> None:
    weirs = make_weirs(TIER_ENTERPRISE=f"usd_per_day={ceiling * 2:.9f}")
    provider.fault(slow=1.5)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda key: at_once(weirs, 10, key), KEYS[:4]))
    assert [codes(one)["ok"] for one in answers] == [2, 2, 2, 2]
    assert len(provider.completions()) == 8
    Books(weirs[0]).check(provider)


def test_a_budget_says_what_it_is_and_what_is_left(
    make_weirs: Any, provider: Provider, ceiling: float
) -> None:
    weir = make_weirs(TIER_ENTERPRISE="usd_per_day=0.5,usd_per_month=2")[0]
    assert weir.post(OPENAI, key=KEYS[0], json=body("call 000")).ok
    [row] = Books(weir).settled(1)
    told = weir.get("/v1/key", key=KEYS[0]).json()
    day, month = told["budget"]
    assert (day["limit"], day["size"], month["size"]) == ("usd_per_day", 0.5, 2)
    assert day["used"] == month["used"] == told["spend_usd"]["day"] == row["cost_nano"] / 1e9
    assert day["reset"] % 86_400 == 0
    explained = weir.post("/v1/explain", key=KEYS[0], json=body("call 001") | {"max_tokens": 10**6})
    assert explained.status_code == 429
    assert explained.json()["error"]["code"] == "budget_exceeded"
    native = weir.post(
        "/chat", key=KEYS[0], json={"message": "hi", "max_tokens": 4000, "model": "stand-in-1"}
    )
    assert native.ok
    assert native.json()["cost_usd"] < 4000 * OUTPUT / 1e9 + 100 * INPUT / 1e9


def test_cached_answers_are_served_when_the_budget_is_used_up(
    make_weirs: Any, provider: Provider, ceiling: float
) -> None:
    weir = make_weirs(TIER_ENTERPRISE=f"usd_per_day={ceiling:.9f}", CACHE_TTL=60)[0]
    assert weir.post(OPENAI, key=KEYS[0], json=body("call 000")).ok
    Books(weir).settled(1)
    again = weir.post(OPENAI, key=KEYS[0], json=body("call 000"))
    assert again.headers["X-Cache"] == "HIT"
    other = weir.post(OPENAI, key=KEYS[0], json=body("call 001"))
    assert other.json()["error"]["code"] == "budget_exceeded"
    assert "X-Cache" not in other.headers


def test_who_joins_a_call_needs_a_budget_too(
    make_weirs: Any, provider: Provider, ceiling: float
) -> None:
    weirs = make_weirs(TIER_ENTERPRISE=f"usd_per_day={ceiling:.9f}", CACHE_TTL=60)
    assert weirs[-1].post(OPENAI, key=KEYS[1], json=body("call 199")).ok
    Books(weirs[0]).settled(1)
    provider.fault(slow=1.5)
    with ThreadPoolExecutor(2) as pool:
        leads = pool.submit(weirs[0].post, OPENAI, key=KEYS[0], json=body("call 000"))
        wait_until(lambda: len(provider.completions()) == 2)
        spent = pool.submit(weirs[-1].post, OPENAI, key=KEYS[1], json=body("call 000"))
        assert spent.result().json()["error"]["code"] == "budget_exceeded"
        fresh = pool.submit(weirs[-1].post, OPENAI, key=KEYS[2], json=body("call 000"))
        assert leads.result().headers["X-Cache"] == "MISS"
        assert fresh.result().headers["X-Cache"] == "COALESCED"
    assert len(provider.completions()) == 2
    Books(weirs[0]).check(provider)
