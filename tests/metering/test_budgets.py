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
    "MODEL_PRICES": PRICES,
    "LLM_MAX_RETRIES": 0,
    "BREAKER_FAILURES": 1_000_000,
}
UNCACHED = {"Cache-Control": "no-store"}
MAX_TOKENS = 100
# USD that a call of body() may cost at most: the Weirs say so, too.
CEILING = 0.000288
# The tiers, one for each test, by how many calls of body() their budgets are for.
CEILINGS = {
    "seven_a_day": ("day", 7), "seven_a_month": ("month", 7), "three": ("day", 3),
    "two": ("day", 2), "one": ("day", 1), "joined": ("day", 1),
}  # fmt: skip
TOLD = "usd_per_day=0.5,usd_per_month=2"
TIERS = [*CEILINGS, "told"]


def key_of(tier: str, number: int = 0) -> str:
    return f"{tier}_key_{number:010d}"


def body(said: str) -> dict[str, Any]:
    """A call whose ceiling is CEILING, whatever the number in it."""
    messages = [{"role": "user", "content": said}]
    return {"model": "stand-in-1", "messages": messages, "max_tokens": MAX_TOKENS}


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def shared_weirs(
    request: pytest.FixtureRequest,
    start_shared_weir: MakeWeir,
    provider: Provider,
    fresh_shared_database: str,
    fresh_shared_valkey: Valkey,
) -> list[Weir]:
    """One Weir on SQLite, or two of two workers each on PostgreSQL."""
    budgets = {
        f"TIER_{tier.upper()}": f"usd_per_{period}={CEILING * calls:.9f}"
        for tier, (period, calls) in CEILINGS.items()
    }
    given = SETTINGS | {
        "OPENAI_BASE_URL": provider.base_url,
        "TIERS": ";".join(f"{tier}=99999/minute" for tier in TIERS),
        "API_KEYS": ",".join(
            f"{tier}{number}:{tier}:{key_of(tier, number)}" for tier in TIERS for number in range(4)
        ),
        "TIER_TOLD": TOLD,
        **budgets,
    }
    if request.param == "sqlite":
        weirs = [start_shared_weir(**given)]
    else:
        given |= {"DATABASE_URL": fresh_shared_database, "REDIS_URL": fresh_shared_valkey.url}
        weirs = [start_shared_weir(**given, WEB_CONCURRENCY=2) for _ in range(2)]
    said = weirs[0].post("/v1/explain", key=key_of("told"), json=body("call 000")).json()
    assert said["cost_ceiling_usd"] == CEILING
    return weirs


@pytest.fixture
def weirs(shared_weirs: list[Weir]) -> list[Weir]:
    """The Weirs with empty books."""
    Books(shared_weirs[0]).forget()
    return shared_weirs


def at_once(weirs: list[Weir], count: int, key: str) -> list[requests.Response]:
    """The answers to so many different calls at the same time, spread over the Weirs."""

    def ask(number: int) -> requests.Response:
        said = body(f"call {key[-1]}{number:02d}")
        return weirs[number % len(weirs)].post(OPENAI, key=key, json=said, headers=UNCACHED)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(ask, range(count)))


def codes(answers: list[requests.Response]) -> Counter[str]:
    return Counter("ok" if a.ok else a.json()["error"]["code"] for a in answers)


@pytest.mark.parametrize("period", ["day", "month"])
def test_with_a_budget_for_n_calls_n_calls_reach_the_provider(
    weirs: list[Weir], provider: Provider, period: str
) -> None:
    provider.fault(slow=2.0)  # nothing settles before all have asked
    answers = at_once(weirs, 50, key_of(f"seven_a_{period}"))
    assert codes(answers) == {"ok": 7, "budget_reserved": 43}
    assert len(provider.completions()) == 7
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert refused.headers["Retry-After"] == "1"
    assert f"per {period}" in refused.json()["error"]["message"]
    Books(weirs[0]).check(provider)


def test_what_settles_below_the_ceiling_is_spent_again_to_the_last_call_that_fits(
    weirs: list[Weir], provider: Provider
) -> None:
    nano = round(CEILING * 1e9)
    key = key_of("three")
    ended = False
    while not ended:
        answers = at_once(weirs, 10, key)
        assert set(codes(answers)) <= {"ok", "budget_reserved", "budget_exceeded"}
        ended = codes(answers)["budget_exceeded"] == 10
    rows = Books(weirs[0]).check(provider)
    spent = sum(row["cost_nano"] for row in rows)
    assert spent <= 3 * nano, "the budget is not overrun"
    assert spent + nano > 3 * nano, "not one more call would have fitted"
    over = at_once(weirs, 1, key)[0]
    assert over.json()["error"]["type"] == "insufficient_quota"
    assert over.headers["x-should-retry"] == "false"
    assert int(over.headers["Retry-After"]) > 1


def test_each_key_of_a_tier_has_a_budget_of_its_own(weirs: list[Weir], provider: Provider) -> None:
    provider.fault(slow=1.5)
    keys = [key_of("two", number) for number in range(4)]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda key: at_once(weirs, 10, key), keys))
    assert [codes(one)["ok"] for one in answers] == [2, 2, 2, 2]
    assert len(provider.completions()) == 8
    Books(weirs[0]).check(provider)


def test_a_budget_says_what_it_is_and_what_is_left(weirs: list[Weir], provider: Provider) -> None:
    weir, key = weirs[0], key_of("told")
    assert weir.post(OPENAI, key=key, json=body("told 000")).ok
    [row] = Books(weir).settled(1)
    told = weir.get("/v1/key", key=key).json()
    day, month = told["budget"]
    assert (day["limit"], day["size"], month["size"]) == ("usd_per_day", 0.5, 2)
    assert day["used"] == month["used"] == told["spend_usd"]["day"] == row["cost_nano"] / 1e9
    assert day["reset"] % 86_400 == 0
    explained = weir.post("/v1/explain", key=key, json=body("told 001") | {"max_tokens": 10**6})
    assert explained.status_code == 429
    assert explained.json()["error"]["code"] == "budget_exceeded"
    native = weir.post(
        "/chat", key=key, json={"message": "hi", "max_tokens": 4000, "model": "stand-in-1"}
    )
    assert native.ok
    assert native.json()["cost_usd"] < 4000 * OUTPUT / 1e9 + 100 * INPUT / 1e9


def test_cached_answers_are_served_when_the_budget_is_used_up(
    weirs: list[Weir], provider: Provider
) -> None:
    weir, key = weirs[0], key_of("one")
    assert weir.post(OPENAI, key=key, json=body("kept 000")).ok
    Books(weir).settled(1)
    again = weir.post(OPENAI, key=key, json=body("kept 000"))
    assert again.headers["X-Cache"] == "HIT"
    other = weir.post(OPENAI, key=key, json=body("kept 001"))
    assert other.json()["error"]["code"] == "budget_exceeded"
    assert "X-Cache" not in other.headers


def test_who_joins_a_call_needs_a_budget_too(weirs: list[Weir], provider: Provider) -> None:
    leader, without, joins = (key_of("joined", number) for number in range(3))
    assert weirs[-1].post(OPENAI, key=without, json=body("join 199")).ok
    Books(weirs[0]).settled(1)
    provider.fault(slow=1.5)
    with ThreadPoolExecutor(2) as pool:
        leads = pool.submit(weirs[0].post, OPENAI, key=leader, json=body("join 000"))
        wait_until(lambda: len(provider.completions()) == 2)
        spent = pool.submit(weirs[-1].post, OPENAI, key=without, json=body("join 000"))
        assert spent.result().json()["error"]["code"] == "budget_exceeded"
        fresh = pool.submit(weirs[-1].post, OPENAI, key=joins, json=body("join 000"))
        assert leads.result().headers["X-Cache"] == "MISS"
        assert fresh.result().headers["X-Cache"] == "COALESCED"
    assert len(provider.completions()) == 2
    Books(weirs[0]).check(provider)
