"""Routes: whom a request reaches, how often, and who answers when somebody fails."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
import requests

from tests.conftest import MakeWeir
from tests.support.servers import DidNotStart, Provider, Valkey, Weir, wait_until

KEY, OTHER_KEY = "test_key_0123456789", "other_key_0123456789"
OPENAI = "/v1/chat/completions"
SETTINGS = {
    "API_KEYS": f"test:enterprise:{KEY},other:enterprise:{OTHER_KEY}",
    "TIERS": "enterprise=99999/minute",
    "CACHE_TTL": 0,
}
# Two providers that are one stand-in: its faults tell them apart by the model.
ROUTES = "default=one/first>two/second;spread=one/first*3>two/second*1;only=one/first"


def providers(provider: Provider) -> dict[str, str]:
    return {
        "PROVIDER_ONE_BASE_URL": provider.base_url,
        "PROVIDER_TWO_BASE_URL": provider.base_url,
        "PROVIDER_TWO_TYPE": "openai",
        "PROVIDER_TWO_API_KEY": "sk-second-provider",
    }


@pytest.fixture(scope="module")
def weir(start_shared_weir: MakeWeir, provider: Provider) -> Weir:
    return start_shared_weir(
        **SETTINGS, **providers(provider), MODEL_ROUTES=ROUTES, LLM_TIMEOUT=0.6,
        BREAKER_FAILURES=1_000_000,
    )  # fmt: skip


def ask(
    weir: Weir, text: str, *, streamed: bool = False, key: str = KEY, **fields: Any
) -> requests.Response:
    body = {"messages": [{"role": "user", "content": text}], "stream": streamed, **fields}
    return weir.post(OPENAI, key=key, json=body)


def models(provider: Provider) -> list[str]:
    """The models that were asked for, in order."""
    return [call["body"]["model"] for call in provider.completions()]


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize(
    "fault",
    [{"status": 500}, {"status": 503}, {"garbage": True}, {"cut_before": True}],
    ids=str,
)
def test_a_target_that_fails_is_tried_again_and_then_the_next_one(
    weir: Weir, provider: Provider, fault: dict[str, Any], streamed: bool
) -> None:
    provider.fault(**fault, model="first")
    answer = ask(weir, "fail over", streamed=streamed)
    assert answer.status_code == 200, answer.text
    assert models(provider) == ["first", "first", "first", "second"]
    assert answer.headers["X-Weir-Provider"] == "two"
    assert answer.headers["X-Weir-Attempts"] == "4"
    assert answer.headers["X-Weir-Route"] == "default"


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize(
    "fault",
    [
        {"hang": True},
        {"status": 401},
        {"status": 403},
        {"status": 429, "code": "insufficient_quota"},
        {"status": 429, "retry_after": "3600"},
        {"status": 404, "code": "model_not_found"},
    ],
    ids=str,
)
def test_what_another_try_cannot_mend_goes_to_the_next_target_at_once(
    weir: Weir, provider: Provider, fault: dict[str, Any], streamed: bool
) -> None:
    provider.fault(**fault, model="first")
    answer = ask(weir, "no second try", streamed=streamed)
    assert answer.status_code == 200, answer.text
    assert models(provider) == ["first", "second"]
    assert answer.headers["X-Weir-Attempts"] == "2"


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize(
    "fault",
    [
        {"status": 400},
        {"status": 404},
        {"status": 413},
        {"status": 422},
        {"status": 400, "code": "context_length_exceeded"},
    ],
    ids=str,
)
def test_a_mistake_of_the_caller_is_neither_tried_again_nor_failed_over(
    weir: Weir, provider: Provider, fault: dict[str, Any], streamed: bool
) -> None:
    provider.fault(**fault)
    answer = ask(weir, "my mistake", streamed=streamed)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["code"] == fault.get("code", "provider_refused_request")
    assert models(provider) == ["first"]
    assert answer.headers["X-Weir-Attempts"] == "1"


def test_the_pause_before_another_try_is_what_the_provider_asked_for(
    weir: Weir, provider: Provider
) -> None:
    provider.fault(status=429, retry_after="1", times=1)
    began = time.monotonic()
    answer = ask(weir, "retry after")
    assert time.monotonic() - began >= 1
    assert (answer.status_code, answer.headers["X-Weir-Attempts"]) == (200, "2")
    assert models(provider) == ["first", "first"]


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
def test_when_all_are_busy_the_client_is_told_until_when(
    weir: Weir, provider: Provider, streamed: bool
) -> None:
    provider.fault(status=429, retry_after="77")
    answer = ask(weir, "all busy", streamed=streamed)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "77")
    assert answer.json()["error"]["code"] == "provider_busy"
    assert models(provider) == ["first", "second"]


def test_a_stream_fails_over_until_its_first_content(weir: Weir, provider: Provider) -> None:
    provider.fault(role_then_cut=True, model="first")
    answer = ask(weir, "role only", streamed=True)
    assert "echo: role only" in text_of(answer)
    assert models(provider) == ["first", "first", "first", "second"]
    assert answer.text.count('"role"') == 1


def test_a_stream_does_not_fail_over_after_its_first_content(
    weir: Weir, provider: Provider
) -> None:
    provider.fault(cut=True, pieces=5)
    answer = ask(weir, "cut later", streamed=True)
    *_, error, end = [line[6:] for line in answer.text.splitlines() if line]
    assert end == "[DONE]"
    assert json.loads(error)["error"]["code"] == "provider_failed"
    assert models(provider) == ["first"]


def text_of(answer: requests.Response) -> str:
    events = [json.loads(line[6:]) for line in answer.text.splitlines() if line[6:7] == "{"]
    choices = [choice for one in events for choice in one["choices"]]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


def test_all_attempts_together_end_by_the_deadline(
    start_weir: MakeWeir, provider: Provider
) -> None:
    weir = start_weir(**SETTINGS, **providers(provider), MODEL_ROUTES=ROUTES, LLM_DEADLINE=1.5)

    def timed(fault: str, streamed: bool) -> tuple[int, float]:
        began = time.monotonic()
        answer = ask(weir, f"deadline [[fault:{fault}]]", streamed=streamed)
        return answer.status_code, time.monotonic() - began

    with ThreadPoolExecutor(3) as pool:
        hung, streamed, retried = pool.map(
            timed, ("hang", "hang", "status=500"), (False, True, False)
        )
    assert (hung[0], streamed[0]) == (504, 504)
    assert retried[0] in {502, 504}
    assert max(hung[1], streamed[1], retried[1]) < 4


def test_only_routes_can_be_named(weir: Weir, provider: Provider) -> None:
    for name in ("stand-in-1", "one/first", "nonsense"):
        answer = ask(weir, "x", model=name)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
        native = weir.post("/chat", key=KEY, json={"message": "x", "model": name})
        assert (native.status_code, native.json()["error"]) == (404, "ModelNotFound")
    listed = weir.get("/v1/models", key=KEY).json()["data"]
    assert [model["id"] for model in listed] == ["default", "spread", "only"]
    assert weir.get("/v1/models/only", key=KEY).json()["owned_by"] == "weir"
    assert weir.get("/v1/models/one/first", key=KEY).status_code == 404
    assert provider.completions() == []


def test_a_route_is_explained(weir: Weir, provider: Provider) -> None:
    body = {"model": "spread", "messages": [{"role": "user", "content": "four letters"}]}
    said = weir.post("/v1/explain", key=KEY, json=body).json()
    assert said["route"] == "spread"
    assert said["targets"] == ["one/first", "two/second"]
    assert (said["cache"], said["would_coalesce"], said["input_tokens"]) == ("MISS", False, 3)
    assert provider.completions() == []


def test_weights_spread_the_load(weir: Weir, provider: Provider) -> None:
    # Of a key that no other test lets fail: a pause of its own would keep it from the first.
    spread = {"model": "spread", "key": OTHER_KEY}
    with ThreadPoolExecutor(16) as pool:
        numbers = range(120)
        assert {
            answer.status_code
            for answer in pool.map(lambda n: ask(weir, f"spread {n}", **spread), numbers)
        } == {200}
    asked = Counter(models(provider))
    # Five standard deviations of 4.7 around 90. Without weights it would be around 60.
    assert 66 < asked["first"] < 114
    assert asked["first"] + asked["second"] == 120


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
def test_a_conversation_stays_with_its_target(
    weir: Weir, provider: Provider, streamed: bool
) -> None:
    of_session: dict[str, set[str]] = {}
    for number in range(8):
        name = f"agent {number}"
        for said in ("one", "two", "three"):
            named = {"model": "spread", "key": OTHER_KEY, "prompt_cache_key": name}
            assert ask(weir, f"{said} {number}", streamed=streamed, **named).ok
        of_session[name] = set(models(provider)[-3:])
    assert all(len(targets) == 1 for targets in of_session.values())
    assert set().union(*of_session.values()) == {"first", "second"}


def test_a_conversation_goes_on_elsewhere_while_its_target_fails(
    weir: Weir, provider: Provider
) -> None:
    def asked(said: str) -> list[str]:
        before = len(models(provider))
        turns = [{"role": "user", "content": "begin"}, {"role": "user", "content": said}]
        body = {"model": "spread", "messages": turns}
        assert weir.post(OPENAI, key=OTHER_KEY, json=body).ok
        return models(provider)[before:]

    [own] = asked("one")
    other = {"first": "second", "second": "first"}[own]
    provider.fault(status=401, model=own)  # does not count against the target
    assert asked("two") == [own, other]
    provider.fault()
    assert asked("three") == [own]


def test_keys_of_providers_go_to_their_provider_alone(weir: Weir, provider: Provider) -> None:
    provider.fault(status=401, model="first")
    ask(weir, "whose key")
    first, second = provider.completions()
    assert "authorization" not in first["headers"]
    assert second["headers"]["authorization"] == "Bearer sk-second-provider"


def test_without_routes_a_provider_is_named_before_the_slash(
    start_weir: MakeWeir, provider: Provider
) -> None:
    weir = start_weir(**SETTINGS, **providers(provider))
    for name, asked_for, asked_whom in [
        ("two/stand-in-1", "stand-in-1", "two"),
        ("stand-in-1", "stand-in-1", "one"),
        ("meta/llama-3", "meta/llama-3", "one"),
        (None, "stand-in-1", "one"),
    ]:
        answer = ask(weir, "named", **({"model": name} if name else {}))
        assert answer.status_code == 200
        assert answer.headers["X-Weir-Provider"] == asked_whom
        assert answer.headers["X-Weir-Route"] == f"{asked_whom}/{asked_for}"
        assert models(provider)[-1] == asked_for
    listed = [model["id"] for model in weir.get("/v1/models", key=KEY).json()["data"]]
    assert listed == ["stand-in-1", "stand-in-2", "two/stand-in-1", "two/stand-in-2"]
    assert weir.get("/v1/models/two/stand-in-1", key=KEY).status_code == 200


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"MODEL_ROUTES": "a=nobody/x"}, ["unknown provider nobody"]),
        (
            {
                "MODEL_ROUTES": "a=one",
                "PROVIDER_ONE_BASE_URL": "ftp://x",
                "PROVIDER_OPENAI_BASE_URL": "http://x",
            },
            [
                "MODEL_ROUTES must look like",
                "PROVIDER_ONE_BASE_URL must start with",
                "choose another name",
            ],
        ),
        (
            {
                "MODEL_ROUTES": "a=one/x;a=one/y",
                "PROVIDER_ONE_TYPE": "openai",
                "PROVIDER_ONE_BASE_URL": "",
                "PROVIDER_TWO_TYPE": "magic",
                "PROVIDER_TWO_BASE_URL": "http://127.0.0.1:9/v1",
            },
            [
                "must not name a route twice",
                "PROVIDER_ONE_BASE_URL must be set",
                "PROVIDER_TWO_TYPE must be",
            ],
        ),
    ],
    ids=["unknown provider", "formats", "twice, without an address, of no type"],
)
def test_bad_routes_and_providers_stop_the_start(
    new_weir: MakeWeir, settings: dict[str, str], said: list[str]
) -> None:
    """Each mistake of a start has its own line."""
    with pytest.raises(DidNotStart) as ended:
        new_weir(**{"PROVIDER_ONE_BASE_URL": "http://127.0.0.1:9/v1"} | settings).start()
    lines = ended.value.output.splitlines()
    assert all(any(words in line for line in lines) for words in said), ended.value.output
    assert "Traceback" not in ended.value.output


# -- breakers --

BREAKERS = {
    "BREAKER_FAILURES": 3, "BREAKER_PAUSE": 3, "LLM_MAX_RETRIES": 0, "LLM_TIMEOUT": 2.5,
}  # fmt: skip
# Breakers belong to targets: each test gets some of its own.
NUMBERS = range(1, 16)
GUARDED_ROUTES = ";".join(
    f"default-{n}=one/first-{n}>two/second-{n};only-{n}=one/first-{n}" for n in NUMBERS
)


@dataclass(frozen=True)
class Guarded:
    """A Weir with breakers, and two routes that no other test uses."""

    weir: Weir
    number: int
    workers: int

    @property
    def first(self) -> str:
        return f"first-{self.number}"

    @property
    def second(self) -> str:
        return f"second-{self.number}"

    def ask(self, text: str, route: str = "only", **more: Any) -> requests.Response:
        return ask(self.weir, text, model=f"{route}-{self.number}", **more)

    def breaker(self, operation: str = "") -> str:
        return str(self._shown(operation)["state"])

    def _shown(self, operation: str = "") -> dict[str, Any]:
        target = f"one/{self.first} {operation}".strip()
        shown: dict[str, dict[str, Any]] = self.weir.get("/health/detailed").json()["breakers"]
        return shown.get(target, {"state": "closed"})

    def wait_for_the_pause_s_end(self) -> None:
        time.sleep(self._shown().get("probe_in_s", 0))
        wait_until(lambda: self.breaker() == "half-open", 8)

    def wait_until_known_to_all(self) -> None:
        """Each worker looks twice a second at what all have counted."""
        if self.workers > 1:
            time.sleep(0.6)


@pytest.fixture(scope="module", params=["one process", "two workers"])
def guarded_ones(
    request: pytest.FixtureRequest, start_shared_weir: MakeWeir, provider: Provider
) -> Iterator[Guarded]:
    settings = SETTINGS | providers(provider) | BREAKERS | {"MODEL_ROUTES": GUARDED_ROUTES}
    if request.param == "two workers":
        valkey: Valkey = request.getfixturevalue("fresh_shared_valkey")
        settings |= {"REDIS_URL": valkey.url, "WEB_CONCURRENCY": 2}
    weir = start_shared_weir(**settings)
    return (Guarded(weir, n, int(settings.get("WEB_CONCURRENCY", 1))) for n in NUMBERS)


@pytest.fixture
def guarded(guarded_ones: Iterator[Guarded]) -> Guarded:
    return next(guarded_ones)


def test_a_breaker_opens_lets_one_probe_through_and_closes(
    guarded: Guarded, provider: Provider
) -> None:
    provider.fault(status=500)
    for number in range(3):
        key = (KEY, OTHER_KEY)[number % 2]
        assert guarded.ask(f"break {number}", key=key).status_code == 502
    guarded.wait_until_known_to_all()
    assert guarded.breaker() == "open"
    with ThreadPoolExecutor(8) as pool:
        refused = list(pool.map(lambda n: guarded.ask(f"open {n}"), range(8)))
    assert {answer.status_code for answer in refused} == {503}
    assert {answer.json()["error"]["code"] for answer in refused} == {"providers_unavailable"}
    assert all(1 <= int(answer.headers["Retry-After"]) <= 3 for answer in refused)
    assert len(provider.completions()) == 3
    # The probe fails: another pause.
    guarded.wait_for_the_pause_s_end()
    provider.fault(status=500, slow=0.3)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: guarded.ask(f"probe {n}"), range(8)))
    assert Counter(answer.status_code for answer in answers) == {502: 1, 503: 7}
    assert len(provider.completions()) == 4
    guarded.wait_until_known_to_all()
    assert guarded.breaker() == "open"
    # And this one succeeds.
    guarded.wait_for_the_pause_s_end()
    provider.fault()
    wait_until(lambda: guarded.ask("better").status_code == 200, 5)
    wait_until(lambda: all(guarded.breaker() == "closed" for _ in range(6)), 3)


def test_an_open_breaker_sends_calls_to_the_next_target(
    guarded: Guarded, provider: Provider
) -> None:
    provider.fault(status=500, model=guarded.first)
    for number in range(3):
        key = (KEY, OTHER_KEY)[number % 2]
        answer = guarded.ask(f"break {number}", "default", key=key)
        assert answer.headers["X-Weir-Attempts"] == "2"
    guarded.wait_until_known_to_all()
    assert guarded.breaker() == "open"
    answer = guarded.ask("around it", "default")
    assert (answer.headers["X-Weir-Provider"], answer.headers["X-Weir-Attempts"]) == ("two", "1")


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
def test_requests_of_one_key_that_fail_keep_only_that_key_away(
    guarded: Guarded, provider: Provider, streamed: bool
) -> None:
    provider.fault(status=500)
    for number in range(3):
        answer = guarded.ask(f"image {number}", streamed=streamed)
        assert answer.status_code == 502
    guarded.wait_until_known_to_all()
    assert guarded.breaker() == "closed"
    provider.fault()
    assert {guarded.ask(f"away {n}").status_code for n in range(4)} == {503}
    others = [guarded.ask(f"fine {n}", key=OTHER_KEY) for n in range(4)]
    assert {answer.status_code for answer in others} == {200}


def test_calls_of_one_key_that_hang_keep_only_that_key_away(
    guarded: Guarded, provider: Provider
) -> None:
    with ThreadPoolExecutor(5) as pool:
        hanging = pool.map(lambda n: guarded.ask(f"hang {n} [[fault:hang]]"), range(5))
        wait_until(lambda: len(provider.completions()) == 5)
        others = [guarded.ask(f"meanwhile {n}", key=OTHER_KEY) for n in range(4)]
        assert {answer.status_code for answer in hanging} == {504}
    guarded.wait_until_known_to_all()
    assert guarded.ask("away").status_code == 503
    others += [guarded.ask(f"afterwards {n}", key=OTHER_KEY) for n in range(4)]
    assert {answer.status_code for answer in others} == {200}


def test_a_key_that_is_kept_away_does_not_fail_who_asks_the_same(
    guarded: Guarded, provider: Provider
) -> None:
    provider.fault(status=500)
    for number in range(3):
        guarded.ask(f"image {number}")
    guarded.wait_until_known_to_all()
    provider.reset()
    provider.fault(status=500, slow=1, model=guarded.second)
    with ThreadPoolExecutor(2) as pool:
        kept_away = pool.submit(guarded.ask, "the same", "default")
        wait_until(lambda: models(provider) == [guarded.second], 5)
        other = pool.submit(guarded.ask, "the same", "default", key=OTHER_KEY)
    assert kept_away.result().status_code == 502
    assert (other.result().status_code, other.result().headers["X-Weir-Provider"]) == (200, "one")


def test_embeddings_that_fail_do_not_break_chat(guarded: Guarded, provider: Provider) -> None:
    weir, only = guarded.weir, f"only-{guarded.number}"
    provider.fault(status=500)
    for number in range(3):
        body = {"model": only, "input": f"number {number}"}
        key = (KEY, OTHER_KEY)[number % 2]
        assert weir.post("/v1/embeddings", key=key, json=body).status_code == 502
    guarded.wait_until_known_to_all()
    provider.fault()
    assert guarded.breaker("embeddings") == "open"
    assert weir.post("/v1/embeddings", key=KEY, json=body).status_code == 503
    assert guarded.ask("still there").status_code == 200


@pytest.mark.parametrize("status", [401, 402, 403, 501])
def test_what_a_target_does_not_allow_or_cannot_do_goes_to_the_next_one_and_counts_nothing(
    guarded: Guarded, provider: Provider, status: int
) -> None:
    provider.fault(status=status, model=guarded.first)
    for number in range(4):
        key = (KEY, OTHER_KEY)[number % 2]
        answer = guarded.ask(f"not here {number}", "default", key=key)
        assert (answer.status_code, answer.headers["X-Weir-Attempts"]) == (200, "2")
    assert guarded.breaker() == "closed"


def test_mistakes_of_callers_do_not_open_a_breaker(guarded: Guarded, provider: Provider) -> None:
    for fault in ({"status": 400}, {"status": 422}, {"status": 404, "code": "model_not_found"}):
        provider.fault(**fault)
        for number in range(5):
            guarded.ask(f"mistake {fault} {number}")
    provider.fault()
    assert guarded.breaker() == "closed"
    assert guarded.ask("all is well").status_code == 200


def test_a_success_in_between_begins_the_count_anew(guarded: Guarded, provider: Provider) -> None:
    for number in range(4):
        provider.fault(status=500, times=2)
        for attempt in range(2):
            assert guarded.ask(f"{number} {attempt}").status_code == 502
        assert guarded.ask(f"{number} good").status_code == 200
        guarded.wait_until_known_to_all()
    assert guarded.breaker() == "closed"


@pytest.fixture(scope="module")
def retried_ones(start_shared_weir: MakeWeir, provider: Provider) -> Iterator[Guarded]:
    settings = BREAKERS | {"LLM_MAX_RETRIES": 2, "MODEL_ROUTES": GUARDED_ROUTES}
    weir = start_shared_weir(**SETTINGS | providers(provider) | settings)
    return (Guarded(weir, n, 1) for n in NUMBERS)


@pytest.fixture
def retried(retried_ones: Iterator[Guarded]) -> Guarded:
    """The same in one process, with retries."""
    return next(retried_ones)


def test_a_request_counts_once_however_often_it_was_tried(
    retried: Guarded, provider: Provider
) -> None:
    provider.fault(status=500, retry_after="0")
    for number in range(2):
        key = (KEY, OTHER_KEY)[number % 2]
        answer = retried.ask(f"twice {number}", key=key)
        assert answer.headers["X-Weir-Attempts"] == "3"
    assert retried.breaker() == "closed"
    assert retried.ask("the third").status_code == 502
    assert retried.breaker() == "open"


def test_a_probe_whose_client_leaves_between_two_tries_has_failed(
    retried: Guarded, provider: Provider
) -> None:
    provider.fault(status=500, retry_after="0")
    for number in range(3):
        key = (KEY, OTHER_KEY)[number % 2]
        assert retried.ask(f"break {number}", key=key).status_code == 502
    retried.wait_for_the_pause_s_end()
    provider.reset()
    provider.fault(status=500, retry_after="15")
    probe = {
        "model": f"only-{retried.number}",
        "messages": [{"role": "user", "content": "it leaves"}],
    }
    with pytest.raises(requests.Timeout):
        retried.weir.post(OPENAI, key=KEY, json=probe, timeout=0.5)
    assert len(provider.completions()) == 1
    # Not half-open for as long as a probe may take (30 s).
    wait_until(lambda: retried.breaker() == "open", 5)
