"""Servers as they really are: what can be understood is understood, errors are errors, and the
provider's words arrive. The stand-in knows each habit by name (tests/support/habits.py)."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
import requests

from tests.conftest import MakeWeir
from tests.support import habits
from tests.support.books import Books
from tests.support.completions import Completion
from tests.support.faults import Fault
from tests.support.servers import Provider, Weir, wait_until

KEY = "trial_key_0123456789"
OPENAI = "/v1/chat/completions"
TOOL = {
    "type": "function",
    "function": {
        "name": "get_time",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
# What a server refuses is learnt by provider, and each has its own connections: a test that needs a
# Weir without memories takes one of these.
FRESH = [f"fresh{number}" for number in range(1, 16)]
SETTINGS = {
    "API_KEYS": f"trial:enterprise:{KEY}",
    "TIERS": "enterprise=99999/minute",
    "OPENAI_API_KEY": "sk-provider-secret-1234",
    "DEFAULT_MODEL": "stand-in-1",
    "MODEL_PRICES": "; ".join(
        f"{name}/*: input=1, output=10, max_output=8000" for name in ("openai", *FRESH)
    ),
    "LLM_MAX_RETRIES": 0,
    "LLM_TIMEOUT": 5,
    "BREAKER_FAILURES": 1_000_000,
    "CACHE_STALE_IF_ERROR": 0,
}


@pytest.fixture(scope="module")
def weir(start_shared_weir: MakeWeir, provider: Provider) -> Weir:
    # With a query of its own, each has its own answers in the cache.
    further = {
        f"PROVIDER_{name.upper()}_BASE_URL": f"{provider.base_url}?of={name}" for name in FRESH
    }
    return start_shared_weir(**SETTINGS, OPENAI_BASE_URL=provider.base_url, **further)


@dataclass(frozen=True)
class Fresh:
    """A provider that no other test uses."""

    weir: Weir
    name: str

    def post(self, path: str, json: dict[str, Any]) -> requests.Response:
        return self.weir.post(path, key=KEY, json=json | {"model": f"{self.name}/stand-in-1"})

    def settled(self, calls: int) -> list[dict[str, Any]]:
        """The rows of the ledger, once there are so many and all are settled."""
        query = f"SELECT * FROM ledger WHERE provider = '{self.name}' ORDER BY id"

        def rows() -> list[dict[str, Any]]:
            found = Books(self.weir).rows(query)
            done = len(found) >= calls and not any(row["state"] == "reserved" for row in found)
            return found if done else []

        return wait_until(rows, 30, f"the settling of {calls} calls")


@pytest.fixture(scope="module")
def fresh_names() -> Iterator[str]:
    return iter(FRESH)


@pytest.fixture
def fresh(weir: Weir, fresh_names: Iterator[str]) -> Fresh:
    return Fresh(weir, next(fresh_names))


@pytest.fixture(scope="module")
def routed(start_shared_weir: MakeWeir, provider: Provider) -> Weir:
    """A Weir with a route whose first target can be made to fail by its model's name."""
    return start_shared_weir(
        **SETTINGS | {"DEFAULT_MODEL": ""},
        OPENAI_BASE_URL=provider.base_url,
        PROVIDER_BACKUP_BASE_URL=provider.base_url,
        MODEL_ROUTES="r=openai/gone>backup/m2",
    )


def body_of(text: str, **fields: Any) -> dict[str, Any]:
    return {"model": "stand-in-1", "messages": [{"role": "user", "content": text}], **fields}


def events(answer: requests.Response) -> list[str]:
    """The data of each event. Raises where a line is none that a client would read."""
    blocks = answer.content.decode().split("\n\n")
    assert blocks.pop() == ""
    read = [block for block in blocks if not block.startswith(":")]
    assert all(block.startswith("data: ") and "\n" not in block for block in read)
    return [block.removeprefix("data: ") for block in read]


def text_of(chunks: list[dict[str, Any]]) -> str:
    """The text of the first choice, of contents that are texts or lists of parts."""
    contents = [
        choice["delta"].get("content")
        for chunk in chunks
        for choice in chunk.get("choices") or []
        if choice["index"] == 0 and "delta" in choice
    ]
    return "".join(
        part["text"] if isinstance(part, dict) else part
        for content in contents
        for part in content or ""
    )


# -- what can be understood --


@pytest.mark.parametrize("habit", habits.TOLERATED)
def test_a_plain_answer_is_passed_on_equal_and_kept(
    weir: Weir, provider: Provider, habit: str
) -> None:
    fields = {"tools": [TOOL]} if habit == "no_content" else {}
    body = body_of(f"plain [[fault:habit={habit}]]", **fields)
    first, second = (weir.post(OPENAI, key=KEY, json=body) for _ in range(2))
    assert first.status_code == 200, first.text
    whole = Completion(provider.completions()[0]["body"], Fault()).whole()
    assert first.json() == habits.HABITS[habit].body(whole)
    assert first.headers["X-Weir-Attempts"] == "1"
    assert (second.headers["X-Cache"], second.json()) == ("HIT", first.json())
    assert len(provider.completions()) == 1


@pytest.mark.parametrize("split", [0, 1])
@pytest.mark.parametrize("habit", habits.TOLERATED)
def test_a_stream_is_passed_on_equal_and_kept(
    weir: Weir, provider: Provider, habit: str, split: int
) -> None:
    options = {"stream_options": {"include_usage": True}}
    body = body_of(f"streamed [[fault:habit={habit},split={split}]]", stream=True, **options)
    first, second = (weir.post(OPENAI, key=KEY, json=body) for _ in range(2))
    [call] = provider.completions()
    made = [*Completion(call["body"], Fault()).chunks(), "[DONE]"]
    sent = habits.HABITS[habit].chunks(made)
    # openai-python needs a list of choices beside the usage.
    wanted = [
        chunk | {"choices": chunk.get("choices") or []} if chunk.get("usage") else chunk
        for chunk in sent
        if isinstance(chunk, dict)
    ]
    *chunks, end = events(first)
    assert end == "[DONE]"
    assert [json.loads(chunk) for chunk in chunks] == wanted
    assert (second.headers["X-Cache"], events(second)) == ("HIT", [*chunks, end])


@pytest.mark.parametrize("habit", habits.TOLERATED)
def test_usage_that_nobody_asked_for_is_kept_back(weir: Weir, habit: str) -> None:
    body = body_of(f"no usage [[fault:habit={habit}]]", stream=True)
    *chunks, end = events(weir.post(OPENAI, key=KEY, json=body))
    assert end == "[DONE]"
    assert not any("usage" in json.loads(chunk) for chunk in chunks)
    assert text_of([json.loads(chunk) for chunk in chunks]) or habit == "no_content"


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize("habit", habits.TOLERATED)
def test_native_endpoints_take_the_text_that_there_is(
    weir: Weir, habit: str, streamed: bool
) -> None:
    said = f"native {streamed}"
    wanted = weir.post("/chat", key=KEY, json={"message": said}).json()
    wanted_text = "" if habit == "no_content" else wanted["response"]
    body = {"message": f"{said} [[fault:habit={habit}]]", "stream": streamed}
    answer = weir.post("/chat", key=KEY, json=body)
    assert answer.status_code == 200, answer.text
    if not streamed:
        assert answer.json()["response"] == wanted_text
        return
    *pieces, last, end = events(answer)
    assert end == "[DONE]"
    assert "".join(json.loads(piece)["content"] for piece in pieces) == wanted_text
    assert json.loads(last)["response"] == wanted_text
    assert json.loads(last)["model"] == "stand-in-1"


@pytest.mark.parametrize("habit", habits.WHOLE)
def test_a_server_that_does_not_stream_is_streamed(weir: Weir, habit: str) -> None:
    body = body_of(f"whole [[fault:habit={habit}]]")
    wanted = weir.post(OPENAI, key=KEY, json=body).json()
    *chunks, end = events(weir.post(OPENAI, key=KEY, json=body | {"stream": True}))
    assert end == "[DONE]"
    assert text_of(list(map(json.loads, chunks))) == wanted["choices"][0]["message"]["content"]


def test_choices_of_a_stream_come_in_any_order_and_all_need_their_end(
    weir: Weir, provider: Provider
) -> None:
    body = body_of("two [[fault:habit=first_choice_unfinished]]", stream=True, n=2)
    *chunks, error, end = events(weir.post(OPENAI, key=KEY, json=body))
    assert end == "[DONE]"
    assert text_of(list(map(json.loads, chunks)))
    assert "error" in json.loads(error)
    again = weir.post(OPENAI, key=KEY, json=body)
    assert again.headers["X-Cache"] == "MISS"


# -- errors with status 200 --


@pytest.mark.parametrize("endpoint", [OPENAI, "/chat"])
@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize("habit", habits.ERRORS)
def test_an_error_with_status_200_is_an_error(
    weir: Weir, provider: Provider, habit: str, streamed: bool, endpoint: str
) -> None:
    provider.fault(habit=habit)
    said = f"error {habit} {streamed}"
    body = body_of(said) if endpoint == OPENAI else {"message": said}
    answer = weir.post(endpoint, key=KEY, json=body | {"stream": streamed})
    assert answer.status_code == habits.ERRORS[habit][1], answer.text
    if habit.startswith("error"):
        assert "No capacity" in answer.text
    provider.fault()
    again = weir.post(endpoint, key=KEY, json=body | {"stream": streamed})
    assert (again.status_code, again.headers["X-Cache"]) == (200, "MISS")


@pytest.mark.parametrize("habit", ["finish_reason_error", "error_event"])
def test_a_stream_that_ends_with_an_error_says_so_and_is_not_kept(
    weir: Weir, provider: Provider, habit: str
) -> None:
    body = body_of(f"broken [[fault:habit={habit}]]", stream=True)
    if habit == "error_event":
        # It comes before the first content, so the status can still say it.
        answer = weir.post(OPENAI, key=KEY, json=body)
        assert (answer.status_code, answer.json()["error"]["provider"]["message"]) == (
            502, "The engine fell over",
        )  # fmt: skip
    else:
        *chunks, error, end = events(weir.post(OPENAI, key=KEY, json=body))
        assert end == "[DONE]"
        assert text_of(list(map(json.loads, chunks)))
        assert "Provider disconnected" in json.loads(error)["error"]["message"]
    provider.reset()
    assert weir.post(OPENAI, key=KEY, json=body).headers.get("X-Cache") != "HIT"
    assert len(provider.completions()) == 1


def test_a_broken_generation_is_settled_as_told_and_not_kept(  # c04
    fresh: Fresh, provider: Provider
) -> None:
    provider.fault(habit="finish_reason_error")
    body = body_of("Write one line about weirs.")
    assert fresh.post(OPENAI, body).status_code == 502
    provider.fault()
    again = fresh.post(OPENAI, body)
    assert (again.status_code, again.headers["X-Cache"]) == (200, "MISS")
    usage = again.json()["usage"]
    broken, good = fresh.settled(2)
    assert (broken["input_tokens"], broken["output_tokens"], broken["estimated"]) == (
        usage["prompt_tokens"], usage["completion_tokens"], False,
    )  # fmt: skip
    assert broken["cost_nano"] == good["cost_nano"]


# -- the provider's words --


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize("endpoint", [OPENAI, "/chat"])
@pytest.mark.parametrize("name", sorted(habits.REFUSALS.keys() - {"limit_too_large"}))
def test_the_words_of_a_refusal_arrive(  # c06
    weir: Weir, provider: Provider, name: str, endpoint: str, streamed: bool
) -> None:
    refusal = habits.REFUSALS[name]
    said = f"refused {streamed} [[fault:refusal={name}]]"
    body = body_of(said) if endpoint == OPENAI else {"message": said}
    answer = weir.post(endpoint, key=KEY, json=body | {"stream": streamed})
    wanted = {403: 400, 500: 502, 501: 502, 504: 504}.get(refusal.status, 400)
    assert answer.status_code == (404 if name.startswith("no_model") else wanted), answer.text
    assert len(provider.completions()) == 1
    error = answer.json()["error"] if endpoint == OPENAI else answer.json()
    assert refusal.words in error["message"]
    assert "127.0.0.1" not in answer.text
    assert "flagged" not in answer.text
    if endpoint == OPENAI:
        assert isinstance(error["code"], str)
        assert error["param"] is None or isinstance(error["param"], str)
    if wanted >= 500:
        told = error["provider"] if endpoint == OPENAI else error["details"]["provider"]
        assert told["status"] == refusal.status
        assert refusal.words in told["message"]


def test_code_and_field_of_a_refusal_arrive(weir: Weir) -> None:
    def error(refusal: str) -> dict[str, Any]:
        body = body_of(f"which [[fault:refusal={refusal}]]")
        found: dict[str, Any] = weir.post(OPENAI, key=KEY, json=body).json()["error"]
        return found

    assert error("filtered")["code"] == "content_filter"
    assert error("filtered")["param"] == "prompt"
    assert error("fastapi")["param"] == "temperature"
    assert error("numeric_code")["param"] == "stop"
    assert error("no_model_azure")["code"] == "model_not_found"


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize("fault", ["refusal=tells_secrets", "habit=error_with_secrets"])
def test_no_word_of_a_provider_shows_weir_s_key_or_whom_it_calls(
    weir: Weir, fault: str, streamed: bool
) -> None:
    body = body_of(f"secrets {streamed} [[fault:{fault}]]", stream=streamed)
    answer = weir.post(OPENAI, key=KEY, json=body)
    assert answer.status_code == 502
    assert "for *** at ***" in answer.json()["error"]["message"]
    assert "sk-provider" not in answer.text
    assert "127.0.0.1" not in answer.text


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize("name", [n for n in habits.REFUSALS if n.startswith("no_model")])
def test_a_route_goes_on_where_a_target_lacks_the_model(  # c08
    routed: Weir, provider: Provider, name: str, streamed: bool
) -> None:
    provider.fault(refusal=name, model="gone")
    answer = routed.post(
        OPENAI, key=KEY, json=body_of(f"hello {name}", stream=streamed) | {"model": "r"}
    )
    assert (answer.status_code, answer.headers["X-Weir-Attempts"]) == (200, "2")
    assert answer.headers["X-Weir-Provider"] == "backup"


@pytest.mark.parametrize("fault", [{"refusal": "moderation"}, {"habit": "error_object"}], ids=str)
def test_a_route_goes_on_after_moderation_and_after_an_error_with_status_200(
    routed: Weir, provider: Provider, fault: dict[str, Any]
) -> None:
    provider.fault(**fault, model="gone")
    answer = routed.post(OPENAI, key=KEY, json=body_of(f"hello {fault}") | {"model": "r"})
    assert (answer.status_code, answer.headers["X-Weir-Attempts"]) == (200, "2")


def test_a_refusal_of_the_request_ends_there(routed: Weir, provider: Provider) -> None:
    provider.fault(refusal="html", model="gone")
    answer = routed.post(OPENAI, key=KEY, json=body_of("too large") | {"model": "r"})
    assert (answer.status_code, answer.headers["X-Weir-Attempts"]) == (400, "1")


@pytest.mark.parametrize(
    ("retry_after", "least", "most"),
    [("2.5", 3, 3), ("0.2", 1, 1), ("Wed, 21 Oct 2099 07:28:00 GMT", 80_000, 86_400)],
)
def test_retry_after_may_have_fractions_or_be_a_date(
    weir: Weir, provider: Provider, retry_after: str, least: int, most: int
) -> None:
    provider.fault(status=429, retry_after=retry_after)
    answer = weir.post(OPENAI, key=KEY, json=body_of("busy"))
    assert answer.status_code == 503
    assert least <= int(answer.headers["Retry-After"]) <= most


# -- parameters that Weir adds --


def sent(provider: Provider) -> list[set[str]]:
    """The parameters of each call."""
    return [set(call["body"]) - {"model", "messages", "stream"} for call in provider.completions()]


@pytest.mark.parametrize("like", habits.PARAMETER_REFUSALS)
def test_a_server_that_refuses_stream_options_is_asked_without_them(  # c24
    fresh: Fresh, provider: Provider, like: str
) -> None:
    provider.fault(refuses="stream_options", refuses_like=like, no_usage=True)
    for text in ("hello", "hello again"):
        *_, end = events(fresh.post(OPENAI, body_of(text, stream=True)))
        assert end == "[DONE]"
    assert fresh.post("/chat", {"message": "hi", "stream": True}).status_code == 200
    assert [("stream_options" in names) for names in sent(provider)] == [True, False, False, False]
    rows = fresh.settled(3)
    assert [(row["state"], row["estimated"]) for row in rows] == [("settled", True)] * 3
    assert all(row["cost_nano"] for row in rows)
    asked = body_of("asked", stream=True, stream_options={"include_usage": True})
    refused = fresh.post(OPENAI, asked)
    assert refused.status_code == 400
    assert any(words in refused.text for words in ("stream_options", "Extra inputs"))


def test_a_limit_is_sent_under_its_other_name_then_left_out(
    fresh: Fresh, provider: Provider
) -> None:
    provider.fault(refuses="max_tokens", refuses_like="o1")
    for text in ("one", "two"):
        answer = fresh.post("/chat", {"message": text, "max_tokens": 7})
        assert answer.status_code == 200, answer.text
    limits = [{name for name in names if "max" in name} for names in sent(provider)]
    assert limits == [{"max_tokens"}, {"max_completion_tokens"}, {"max_completion_tokens"}]
    # The client's own limit is never left out, Weir's is.
    provider.reset()
    provider.fault(refuses="max_tokens+max_completion_tokens")
    refused = fresh.post("/chat", {"message": "three", "max_tokens": 7})
    assert refused.status_code == 400
    assert fresh.post("/generate", {"prompt": "four"}).status_code == 200
    assert not any("max" in name for name in sent(provider)[-1])


def test_a_limit_that_one_client_chose_too_large_changes_nothing_for_others(
    fresh: Fresh, provider: Provider
) -> None:
    provider.fault(refusal="limit_too_large")
    large = {"message": "large", "max_tokens": 4_000}
    assert fresh.post("/chat", large).status_code == 400
    provider.fault(refuses="max_completion_tokens")
    answer = fresh.post("/chat", {"message": "small", "max_tokens": 7})
    assert answer.status_code == 200, answer.text
    assert [names & {"max_tokens", "max_completion_tokens"} for names in sent(provider)] == [
        {"max_tokens"}, {"max_tokens"},
    ]  # fmt: skip


def test_requests_that_learn_it_together_are_all_asked_again(
    fresh: Fresh, provider: Provider
) -> None:
    provider.fault(refuses="stream_options", slow=0.3)
    bodies = [body_of(f"together {number}", stream=True) for number in range(6)]
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda body: fresh.post(OPENAI, body), bodies))
    assert {answer.status_code for answer in answers} == {200}


def test_a_temperature_that_nobody_chose_is_left_out_where_it_is_refused(
    fresh: Fresh, provider: Provider
) -> None:
    provider.fault(refuses="temperature", refuses_like="o1")
    assert fresh.post("/chat", {"message": "default"}).status_code == 200
    chosen = {"message": "chosen", "temperature": 0.3}
    assert fresh.post("/chat", chosen).status_code == 400
    openai = body_of("own", temperature=0.3)
    assert fresh.post(OPENAI, openai).status_code == 400


# -- connections --


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize("fault", ["close_reused", "reset_reused"])
def test_a_kept_connection_that_closes_costs_nobody_anything(  # c11
    fresh: Fresh, provider: Provider, fault: str, streamed: bool
) -> None:
    def asked(text: str) -> requests.Response:
        return fresh.post(OPENAI, body_of(f"{fault} {text}", stream=streamed))

    assert asked("keeps a connection").status_code == 200
    fresh.settled(1)  # the connection is free then: a stream ends a moment before
    provider.fault(**{fault: True})
    began = time.monotonic()
    answer = asked("meets it closed")
    assert answer.status_code == 200, answer.text
    assert time.monotonic() - began < 3
    rows = fresh.settled(3)
    lost = rows[1]
    assert lost["state"] != "settled"
    # Not the ceiling of 8,000 tokens of output.
    assert lost["output_tokens"] < 4_000
    breakers = fresh.weir.get("/health/detailed").json()["breakers"]
    assert breakers[f"{fresh.name}/stand-in-1"] == {"state": "closed"}


# -- models --


def test_a_bare_list_of_models_is_understood(start_weir: MakeWeir, provider: Provider) -> None:
    provider.fault(habit="bare_list", path="/v1/models")
    weir = start_weir(**SETTINGS | {"DEFAULT_MODEL": ""}, OPENAI_BASE_URL=provider.base_url)
    listed = weir.get("/v1/models", headers={"Authorization": f"Bearer {KEY}"}).json()["data"]
    assert [model["id"] for model in listed] == ["stand-in-1", "stand-in-2"]
    assert weir.get("/health").json()["checks"]["llm"] == "healthy"
    answer = weir.post(OPENAI, key=KEY, json=body_of("hello") | {"model": None})
    assert answer.json()["model"] == "stand-in-1"
