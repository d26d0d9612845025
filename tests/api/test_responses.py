"""OpenAI's Responses: what is passed on, which keys and providers ids belong to, and the errors."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import requests

from tests.conftest import MakeWeir
from tests.support.servers import Provider, Weir

KEY, POOR, OTHER = (f"{name}_key_0123456789" for name in ("test", "poor", "other"))
RESPONSES = "/v1/responses"
STATELESS = {"store": False}


@pytest.fixture(scope="module")
def weir(start_shared_weir: MakeWeir, provider: Provider) -> Weir:
    return start_shared_weir(
        API_KEYS=f"test:enterprise:{KEY},other:enterprise:{OTHER},poor:free:{POOR}",
        TIERS="enterprise=99999/minute;free=99999/minute",
        TIER_FREE="usd_per_day=0.05",
        OPENAI_BASE_URL=provider.base_url,
        PROVIDER_SECOND_BASE_URL=provider.base_url,
        MODEL_PRICES="openai/stand-in-1: input=1, output=5, cached_input=0.5, context=20000, "
        "max_output=4000, web_search=10",
        LOG_PROMPTS="true",
        LLM_TIMEOUT=2,
        LLM_MAX_RETRIES=0,
        STREAM_HEADERS_AFTER=0.5,
        BREAKER_FAILURES=1_000_000,
    )


def said(words: str, **fields: Any) -> dict[str, Any]:
    return {"model": "stand-in-1", "input": words} | fields


def ask(weir: Weir, words: str, key: str = KEY, **fields: Any) -> requests.Response:
    return weir.post(RESPONSES, key=key, json=said(words, **fields))


def check_error(answer: requests.Response, status: int, code: str) -> str:
    """That it is an error of OpenAI's; returns the message."""
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error.keys() - {"provider"} == {"message", "type", "param", "code"}
    assert error["code"] == code
    message: str = error["message"]
    return message


def events(answer: requests.Response) -> list[dict[str, Any]]:
    """The events of a stream, without comments; their names are their types."""
    blocks = [block for block in answer.text.split("\n\n") if block and block[0] != ":"]
    found = [re.fullmatch(r"event: ([\w.]+)\ndata: (.+)", block) for block in blocks]
    told = [(one[1], json.loads(one[2])) for one in found if one]
    assert len(told) == len(blocks)
    assert all(name == event["type"] for name, event in told)
    return [event for _, event in told]


def calls_about(provider: Provider, words: str, path: str = RESPONSES) -> list[dict[str, Any]]:
    return [call for call in provider.calls(path) if words in str(call["body"])]


# -- passed through --


def test_request_and_answer_pass_as_they_are(weir: Weir, provider: Provider) -> None:
    sent = said(
        "as it is",
        instructions="Be brief.",
        reasoning={"effort": "low", "summary": "auto"},
        include=["reasoning.encrypted_content"],
        metadata={"some": "thing"},
        prompt_cache_key="mine",
        max_output_tokens=500,
        store=False,
    )
    answer = weir.post(RESPONSES, key=KEY, json=sent)
    [call] = calls_about(provider, "as it is")
    assert call["body"] == sent
    direct = requests.post(f"{provider.base_url}/responses", json=sent)
    assert (answer.status_code, answer.content) == (200, direct.content)
    assert answer.headers["X-Cache"] == "MISS"
    assert answer.headers["X-Weir-Route"] == "openai/stand-in-1"
    usage = answer.json()["usage"]
    assert usage["output_tokens_details"]["reasoning_tokens"] == 3
    plain = usage["input_tokens"] - usage["input_tokens_details"]["cached_tokens"]
    cached = usage["input_tokens_details"]["cached_tokens"]
    cost = (plain * 1 + cached * 0.5 + usage["output_tokens"] * 5) / 1e6
    assert float(answer.headers["X-Weir-Cost-USD"]) == pytest.approx(cost)


def test_events_pass_as_they_are_and_the_cost_comes_before_the_last(
    weir: Weir, provider: Provider
) -> None:
    sent = said("event by event", stream=True, store=False, stream_options={})
    answer = weir.post(RESPONSES, key=KEY, json=sent)
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    direct = requests.post(f"{provider.base_url}/responses", json=sent)
    comment = re.search(r": x-weir-cost-usd=[\d.]+\n\n(?=event: response.completed\n)", answer.text)
    assert comment
    assert answer.text.replace(comment[0], "") == direct.text
    assert "[DONE]" not in answer.text
    again = weir.post(RESPONSES, key=KEY, json=sent)
    assert again.headers["X-Cache"] == "HIT"
    assert events(again) == events(answer)
    assert ": x-weir-cost-usd=0\n\nevent: response.completed\n" in again.text


def test_an_answer_that_was_cut_is_an_answer(weir: Weir) -> None:
    for stream in (False, True):
        answer = ask(weir, "one two three four", max_output_tokens=2, stream=stream)
        assert answer.status_code == 200
        response = events(answer)[-1]["response"] if stream else answer.json()
        assert response["status"] == "incomplete"
        assert response["incomplete_details"] == {"reason": "max_output_tokens"}


# -- errors --


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (said("hello", stream="yes"), "stream"),
        (said("hello", store="no"), "store"),
        (said("hello", model=7), "model"),
        (said("hello", previous_response_id=7), "previous_response_id"),
        (said("hello", max_output_tokens=1.5), "max_output_tokens"),
        (said("hello", background=True), "background"),
    ],
)
def test_an_invalid_body_is_a_400_that_names_the_field(
    weir: Weir, body: dict[str, Any], param: str
) -> None:
    answer = weir.post(RESPONSES, key=KEY, json=body)
    assert param in check_error(answer, 400, "validation_error")
    assert answer.json()["error"]["param"] == param


def test_what_the_provider_refuses_is_told_in_its_words(weir: Weir) -> None:
    answer = ask(weir, "hello", nonsense=True)
    assert "Unknown parameter: 'nonsense'" in check_error(answer, 400, "unknown_parameter")
    assert answer.json()["error"]["param"] == "nonsense"


@pytest.mark.parametrize("fault", ["error_event,pieces=5", "cut,pieces=5", "no_finish,pieces=5"])
def test_a_stream_that_fails_ends_with_response_failed(weir: Weir, fault: str) -> None:
    answer = ask(weir, f"it breaks [[fault:{fault}]]", stream=True)
    assert answer.status_code == 200
    *before, last = events(answer)
    assert last["type"] == "response.failed"
    assert last["sequence_number"] == before[-1]["sequence_number"] + 1
    begun, failed = before[0]["response"], last["response"]
    assert failed == begun | {"status": "failed", "error": failed["error"]}
    assert failed["error"]["code"] == "server_error"
    assert "[DONE]" not in answer.text


def test_a_stream_that_fails_late_and_never_began_has_a_beginning(weir: Weir) -> None:
    fault = "[[fault:slow=1,status=429]]"
    answer = ask(weir, f"too late {fault}", stream=True, instructions="Be brief.")
    assert answer.status_code == 200
    created, failed = events(answer)
    assert (created["type"], failed["type"]) == ("response.created", "response.failed")
    assert (created["sequence_number"], failed["sequence_number"]) == (0, 1)
    response = failed["response"]
    assert (response["status"], response["instructions"]) == ("failed", "Be brief.")
    assert response["error"]["code"] == "rate_limit_exceeded"
    assert answer.text.startswith(": ping\n\n")


def test_a_response_that_failed_is_an_error(weir: Weir) -> None:
    for stream in (False, True):
        code = "code=rate_limit_exceeded" + (",habit=error_event" if stream else ",error_event")
        answer = ask(weir, f"it failed [[fault:{code}]]", stream=stream)
        check_error(answer, 503, "provider_busy")
