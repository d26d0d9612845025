"""What a tier or key allows beside requests a minute: days, parallel requests, tokens, models, …"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.conftest import MakeWeir
from tests.support.books import PRICES, Books
from tests.support.servers import Provider, Valkey, Weir, wait_until
from webapp.admission.token_limits import TokenRateLimits
from webapp.errors import RateLimitExceeded
from webapp.settings import SettingsError, load
from webapp.storage.redis_client import RedisClient

OPENAI = "/v1/chat/completions"
UNCACHED = {"Cache-Control": "no-store"}
# USD that a call of body("call 000") may cost at most, with max_tokens=100: /v1/explain says so.
CEILING = 0.000288
# A tier, and a key, for each test.
TIERS = {
    "day": "requests_per_day=9",
    "restart": "requests_per_day=5",
    "plain": "parallel_requests=4",
    "streamed": "parallel_requests=4",
    "killed": "parallel_requests=2",
    "tokens": "tokens_per_minute=1000",
    "models": "models=stand-in-1|x/*",
    "short": "max_text=100",
    "own": "own_cache=true",
    "inside": "networks=10.1.0.0/16|2001:db8::/32",
    "calls": "requests_per_session=6",
    "spends": f"usd_per_session={CEILING * 2:.9f}",
    "both": f"requests_per_session=3,usd_per_session={CEILING * 1.5:.9f}",
}
SETTINGS = {
    "TIERS": ";".join(f"{tier}=99999/minute" for tier in TIERS),
    **{f"TIER_{tier.upper()}": allowed for tier, allowed in TIERS.items()},
    "MODEL_PRICES": PRICES,
    "LLM_MAX_RETRIES": 0,
    "TRUSTED_PROXIES": 1,
}


def key_of(tier: str, which: str = "a") -> str:
    return f"{tier}_key_0123456789{which}"


SETTINGS["API_KEYS"] = ",".join(
    f"{tier}{which}:{tier}:{key_of(tier, which)}" for tier in TIERS for which in "ab"
)


@pytest.fixture(scope="module", params=["alone", "two replicas"])
def weirs(
    request: pytest.FixtureRequest,
    start_shared_weir: MakeWeir,
    provider: Provider,
    fresh_shared_valkey: Valkey,
    fresh_shared_database: str,
) -> list[Weir]:
    """One Weir without Redis, or two with two workers each that share it."""
    given = SETTINGS | {"OPENAI_BASE_URL": provider.base_url}
    if request.param == "alone":
        return [start_shared_weir(**given)]
    given |= {"REDIS_URL": fresh_shared_valkey.url, "DATABASE_URL": fresh_shared_database}
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda _: start_shared_weir(**given, WEB_CONCURRENCY=2), range(2)))


def body(said: str, **fields: Any) -> dict[str, Any]:
    return {"model": "stand-in-1", "messages": [{"role": "user", "content": said}], **fields}


def at_once(weirs: list[Weir], count: int, tier: str, **fields: Any) -> list[requests.Response]:
    def ask(number: int) -> requests.Response:
        said = body(f"call {number:03d}", **fields)
        weir = weirs[number % len(weirs)]
        return weir.post(OPENAI, key=key_of(tier), json=said, headers=UNCACHED)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(ask, range(count)))


def of_session(name: str, **headers: str) -> dict[str, str]:
    return UNCACHED | {"X-Weir-Session": name} | headers


def statuses(answers: list[requests.Response]) -> Counter[int]:
    return Counter(answer.status_code for answer in answers)


def test_of_a_day_s_requests_no_more_pass_than_the_limit(weirs: list[Weir]) -> None:
    answers = at_once(weirs, 40, "day")
    assert statuses(answers) == {200: 9, 429: 31}
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert "requests_per_day" in refused.json()["error"]["message"]
    midnight = 86_400 - time.time() % 86_400
    assert abs(int(refused.headers["Retry-After"]) - midnight) < 5
    assert int(refused.headers["X-RateLimit-Limit"]) == 9
    # A Weir that starts anew, or a Redis that does, knows what the day has had.
    told = weirs[0].get("/v1/key", key=key_of("day")).json()["limits"]
    [day] = [limit for limit in told if limit["limit"] == "requests_per_day"]
    assert (day["used"], day["remaining"], day["reset"] % 86_400) == (9, 0, 0)


def test_a_restart_does_not_hand_out_the_day_again(weirs: list[Weir], valkey: Valkey) -> None:
    key = key_of("restart")
    assert statuses(at_once(weirs, 3, "restart")) == {200: 3}
    one_more = partial(
        weirs[0].post, OPENAI, key=key_of("both"), headers={"X-Weir-Session": "restarted"}
    )
    assert [one_more(json=body("again", max_tokens=1)).status_code for _ in range(2)] == [200, 200]
    wait_until(lambda: weirs[0].get("/stats", key=key).json()["you"]["requests"] == 3, 5)
    with ThreadPoolExecutor() as pool:
        assert set(pool.map(lambda weir: weir.terminate(), weirs)) == {0}
        valkey.flush()
        list(pool.map(lambda weir: weir.start(), weirs))
    assert statuses(at_once(weirs, 10, "restart")) == {200: 2, 429: 8}
    # Nor does it begin a session anew.
    assert [one_more(json=body("again", max_tokens=1)).status_code for _ in range(2)] == [200, 429]


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
def test_no_more_requests_run_at_the_same_time_than_allowed(
    weirs: list[Weir], provider: Provider, streamed: bool
) -> None:
    tier = "streamed" if streamed else "plain"
    key = key_of(tier)
    provider.fault(slow=1.5)
    answers = at_once(weirs, 30, tier, stream=streamed)
    assert statuses(answers) == {200: 4, 429: 26}
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert refused.headers["Retry-After"] == "1"
    assert "parallel_requests" in refused.json()["error"]["message"]
    provider.fault()
    # Whatever becomes of a request, its place is free afterwards.
    wait_until(lambda: running(weirs[0], key) == 0)
    for _ in range(6):
        assert weirs[0].post(OPENAI, key=key, json={"messages": 1}).status_code == 400
    with weirs[-1].stream(OPENAI, body("left", stream=True), key) as stream:
        next(stream)
    wait_until(lambda: running(weirs[0], key) == 0)
    assert statuses(at_once(weirs, 4, tier)) == {200: 4}


def running(weir: Weir, key: str) -> int:
    """The requests of a key that count as running."""
    limits = weir.get("/v1/key", key=key).json()["limits"]
    return next(limit["used"] for limit in limits if limit["limit"] == "parallel_requests")


def test_the_places_of_a_killed_worker_come_free(
    start_weir: MakeWeir, provider: Provider, fresh_valkey: Valkey
) -> None:
    weir = start_weir(
        **SETTINGS, OPENAI_BASE_URL=provider.base_url, REDIS_URL=fresh_valkey.url, WEB_CONCURRENCY=1
    )
    key = key_of("killed")
    provider.fault(slow=30)
    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(weir.post, OPENAI, key=key, json=body(f"x{n}")) for n in range(2)]
        wait_until(lambda: len(provider.completions()) == 2)
        # They run for longer than a lease, which is renewed.
        give_up = time.monotonic() + 11
        while time.monotonic() < give_up:
            assert weir.post(OPENAI, key=key, json=body("y")).status_code == 429
            time.sleep(0.2)
        os.kill(weir.pids()[0], signal.SIGKILL)
        for one in running:
            assert isinstance(one.exception(), requests.RequestException)
    provider.fault()
    wait_until(lambda: _status(weir) == 200, 15, "a free place")


def _status(weir: Weir) -> int:
    try:
        return weir.post(OPENAI, key=key_of("killed"), json=body("z")).status_code
    except requests.ConnectionError:
        return 0


def test_tokens_a_minute_hold_at_their_ceilings_and_settle(
    weirs: list[Weir], provider: Provider
) -> None:
    provider.fault(slow=1.5)
    # Each may use 100 tokens, and what its input may have.
    answers = at_once(weirs, 30, "tokens", max_tokens=100)
    passed = statuses(answers)[200]
    assert statuses(answers) == {200: passed, 429: 30 - passed}
    assert 5 <= passed <= 9
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert "tokens per minute" in refused.json()["error"]["message"]
    assert 1 <= int(refused.headers["Retry-After"]) <= 60
    provider.fault()
    # What was not used is free again at once.
    again = at_once(weirs[:1], 1, "tokens", max_tokens=100)[0]
    assert again.status_code == 200
    remaining = int(again.headers["x-ratelimit-remaining-tokens"])
    assert again.headers["x-ratelimit-limit-tokens"] == "1000"
    assert 800 < remaining < 1000
    too_large = at_once(weirs[:1], 1, "tokens", max_tokens=5000)[0]
    assert (too_large.status_code, too_large.headers["x-should-retry"]) == (429, "false")


@pytest.mark.parametrize("shared", [True, False], ids=["redis", "process"])
def test_a_window_of_tokens_never_has_more_than_its_limit(
    fresh_valkey: Valkey, shared: bool
) -> None:
    windows = TokenRateLimits(RedisClient(fresh_valkey.url) if shared else None, workers=1)
    held = [windows.reserve("key-1", 100, 40, named=True) for _ in range(2)]
    with pytest.raises(RateLimitExceeded) as refused:
        windows.reserve("key-1", 100, 40, named=True)
    assert refused.value.details
    assert refused.value.details["used"] == 80
    assert 59 <= (refused.value.retry_after or 0) <= 60
    windows.settle(held[0], 15)
    third = windows.reserve("key-1", 100, 40, named=True)
    windows.settle(third, 0)
    windows.reserve("key-2", 100, 100, named=True)
    # One that names no maximum may run alone in its minute.
    with pytest.raises(RateLimitExceeded):
        windows.reserve("key-1", 100, 5000, named=False)
    windows.reserve("key-3", 100, 5000, named=False)


def test_a_key_may_use_the_models_that_it_is_allowed(weirs: list[Weir], provider: Provider) -> None:
    weir, key = weirs[0], key_of("models")
    assert weir.post(OPENAI, key=key, json=body("models")).status_code == 200
    assert weir.post("/chat", key=key, json={"message": "hi", "model": "x/y"}).status_code == 200
    for path, asked in ((OPENAI, body("hi")), ("/v1/explain", body("hi"))):
        refused = weir.post(path, key=key, json=asked | {"model": "stand-in-2"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "model_not_allowed")
        assert refused.json()["error"]["type"] == "permission_error"
    native = {"text": "A text that is long enough.", "model": "stand-in-2"}
    refused = weir.post("/summarize", key=key, json=native)
    assert (refused.status_code, refused.json()["error"]) == (403, "ModelNotAllowed")
    listed = [model["id"] for model in weir.get("/v1/models", key=key).json()["data"]]
    assert listed == ["stand-in-1"]
    assert weir.get("/v1/models/stand-in-2", key=key).status_code == 404
    assert len(provider.completions()) == 2


def test_a_tier_has_its_longest_text_and_a_cache_of_its_own(
    weirs: list[Weir], provider: Provider
) -> None:
    weir, short, own, another = weirs[0], key_of("short"), key_of("own"), key_of("own", "b")
    assert weir.post("/summarize", key=short, json={"text": "x " * 51}).status_code == 422
    assert weir.post("/summarize", key=own, json={"text": "x " * 51}).status_code == 200
    states = [
        weir.post(OPENAI, key=key, json=body("mine")).headers["X-Cache"]
        for key in (short, own, own, another)
    ]
    assert states == ["MISS", "MISS", "HIT", "MISS"]


def test_a_key_works_from_its_networks_only(weirs: list[Weir]) -> None:
    def ask(address: str) -> requests.Response:
        headers = {"X-Forwarded-For": address}
        return weirs[0].post(OPENAI, key=key_of("inside"), json=body("hi"), headers=headers)

    assert ask("10.1.2.3").status_code == ask("2001:db8::1").status_code == 200
    for _ in range(35):  # it is no wrong credential
        refused = ask("10.2.0.1")
        assert (refused.status_code, refused.json()["error"]["code"]) == (
            403,
            "address_not_allowed",
        )


def test_of_a_session_s_requests_no_more_pass_than_the_limit(weirs: list[Weir]) -> None:
    def ask(number: int) -> requests.Response:
        weir, name = weirs[number % len(weirs)], f"agent-{number % 2}"
        said, key = body(f"call {number:03d}"), key_of("calls", "ab"[number // 2 % 2])
        return weir.post(OPENAI, key=key, json=said, headers=of_session(name))

    # Two sessions of each of two keys, whose names are the same.
    with ThreadPoolExecutor(40) as pool:
        answers = list(pool.map(ask, range(40)))
    assert statuses(answers) == {200: 24, 429: 16}
    refused = next(answer for answer in answers if answer.status_code == 429)
    error = refused.json()["error"]
    assert (error["code"], error["type"]) == ("session_limit_exceeded", "insufficient_quota")
    assert "Session agent-" in error["message"]
    assert "has had its 6 requests (requests_per_session)" in error["message"]
    assert refused.headers["x-should-retry"] == "false"
    assert refused.headers["Retry-After"] == "86400"


def test_a_session_is_named_by_what_agents_send(weirs: list[Weir]) -> None:
    weir, key = weirs[0], key_of("both")
    in_body = {"metadata": {"user_id": "user_1_account__session_mine"}}
    messages = {**body("call 000", max_tokens=1), **in_body}
    named_so: list[tuple[str, dict[str, Any], dict[str, str]]] = [
        (OPENAI, body("call 000", max_tokens=1, prompt_cache_key="mine"), {}),
        (OPENAI, body("call 000", max_tokens=1), {"Session-Id": "mine"}),
        ("/v1/messages", messages, {}),
    ]
    for path, said, headers in named_so:
        assert weir.post(path, key=key, json=said, headers=headers).status_code == 200, path
    for path in ("/v1/messages", "/v1/messages/count_tokens"):
        refused = weir.post(path, key=key, json=messages)
        assert (refused.status_code, refused.headers["x-should-retry"]) == (429, "false")
        error = refused.json()["error"]
        assert error["type"] == "rate_limit_error"
        assert error["message"].startswith("Session mine has had its 3 requests")
    native = {"message": "hi", "model": "stand-in-1", "max_tokens": 1}
    claude = {"X-Claude-Code-Session-Id": "mine"}
    refused = weir.post("/chat", key=key, json=native, headers=claude)
    assert (refused.status_code, refused.json()["error"]) == (429, "SessionLimitExceeded")
    assert refused.json()["details"]["session"] == "mine"
    # The key's own session, and one of the other key, have had nothing.
    assert weir.post("/chat", key=key, json=native).status_code == 200
    assert weir.post("/chat", key=key_of("both", "b"), json=native, headers=claude).ok


def test_sessions_share_the_cache(weirs: list[Weir]) -> None:
    states = [
        weirs[0]
        .post(OPENAI, key=key_of("calls"), json=body("shared"), headers={"X-Weir-Session": name})
        .headers["X-Cache"]
        for name in ("one", "two")
    ]
    assert states == ["MISS", "HIT"]


def test_a_session_that_is_named_wrongly_is_refused_and_counts_nowhere(weirs: list[Weir]) -> None:
    weir, key = weirs[0], key_of("calls")
    before = weir.get("/v1/key", key=key).json()["limits"]
    for path, said in (
        (OPENAI, body("x")),
        ("/chat", {"message": "x"}),
        ("/v1/explain", body("x")),
    ):
        refused = weir.post(path, key=key, json=said, headers={"X-Weir-Session": "two words"})
        assert refused.status_code == 400, path
        assert "X-Weir-Session must be 1 to 256 visible ASCII characters" in refused.text
    later = {"X-Weir-Session": "two words", "Prefer": "respond-async"}
    assert weir.post("/chat", key=key, json={"message": "x"}, headers=later).status_code == 400
    assert weir.get("/v1/key", key=key).json()["limits"][-1] == before[-1]


def test_a_session_spends_no_more_than_its_limit(weirs: list[Weir], provider: Provider) -> None:
    provider.fault(slow=1.5)  # nothing settles before all have asked

    def ask(number: int) -> requests.Response:
        weir, name = weirs[number % len(weirs)], f"agent-{number % 2}"
        said = body(f"call {number:03d}", max_tokens=100)
        return weir.post(OPENAI, key=key_of("spends"), json=said, headers=of_session(name))

    with ThreadPoolExecutor(30) as pool:
        answers = list(pool.map(ask, range(30)))
    codes = Counter("ok" if a.ok else a.json()["error"]["code"] for a in answers)
    assert codes == {"ok": 4, "budget_reserved": 26}
    assert len(provider.completions()) == 4
    provider.fault()
    while (answer := ask(0)).ok or answer.json()["error"]["code"] == "budget_reserved":
        pass
    assert answer.json()["error"]["code"] == "session_limit_exceeded"
    assert answer.headers["x-should-retry"] == "false"
    assert "Session agent-0 has " in answer.json()["error"]["message"]
    assert "(usd_per_session)" in answer.json()["error"]["message"]
    books = Books(weirs[0])
    books.check_sessions([row for row in books.settled(0) if row["session_id"]])
    budgets = books.rows("SELECT * FROM budgets WHERE period LIKE 'session_%'")
    ceiling = round(CEILING * 1e9)
    assert ceiling < max(one["spent_nano"] for one in budgets) <= 2 * ceiling


def test_a_request_that_its_session_cannot_pay_is_not_one_of_its_requests(
    weirs: list[Weir],
) -> None:
    weir, key, named = weirs[0], key_of("both"), of_session("poor")
    dear, cheap = body("call 000", max_tokens=900), body("call 000", max_tokens=1)
    for path in (OPENAI, "/v1/explain"):
        for _ in range(4):
            refused = weir.post(path, key=key, json=dear, headers=named)
            assert refused.json()["error"]["code"] == "session_limit_exceeded"
            assert "(usd_per_session)" in refused.json()["error"]["message"]
    told = weir.post("/v1/explain", key=key, json=cheap, headers=named).json()
    [limit] = [limit for limit in told["limits"] if limit["limit"] == "requests_per_session"]
    assert (limit["session"], limit["size"], limit["used"], limit["remaining"]) == ("poor", 3, 0, 3)
    [budget] = [budget for budget in told["budget"] if budget["limit"] == "usd_per_session"]
    assert (budget["session"], budget["used"]) == ("poor", 0)
    for _ in range(3):
        assert weir.post(OPENAI, key=key, json=cheap, headers=named).ok
    told = weir.get("/v1/key", key=key, headers={"X-Weir-Session": "poor"}).json()
    assert told["limits"][-1]["remaining"] == 0
    for path in (OPENAI, "/v1/explain"):
        refused = weir.post(path, key=key, json=cheap, headers=named)
        assert "(requests_per_session)" in refused.json()["error"]["message"]


def test_a_wrong_tier_is_named_at_the_start(tmp_path: Path) -> None:
    for settings, said in (
        ({"TIER_GOLD": "usd_per_day=1"}, "TIER_GOLD names no tier"),
        ({"TIER_FREE": "usd_per_day=much"}, "TIER_FREE: usd_per_day must be an amount"),
        ({"TIER_FREE": "colour=red"}, "TIER_FREE: colour must be one of"),
        ({"MODEL_PRICES": "gpt: input"}, "MODEL_PRICES must look like"),
    ):
        with pytest.raises(SettingsError, match=said):
            load({"DATA_DIR": str(tmp_path), **settings})
