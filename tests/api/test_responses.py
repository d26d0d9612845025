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
        "max_output=4000, web_search=0.01",
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


def test_a_request_without_input_has_none_at_the_provider(weir: Weir, provider: Provider) -> None:
    sent = {"model": "stand-in-1", "prompt": {"id": "pmpt_without"}}
    assert weir.post(RESPONSES, key=KEY, json=sent).status_code == 200
    assert [call["body"] for call in calls_about(provider, "pmpt_without")] == [sent]


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


# -- ids --


def refused(answer: requests.Response, id_: str) -> None:
    message = check_error(answer, 404, "not_found")
    assert id_ in message
    assert answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("stream", [False, True])
def test_a_response_is_found_by_its_key_at_its_provider(
    weir: Weir, provider: Provider, stream: bool
) -> None:
    answer = ask(weir, f"keep me {stream}", model="second/stand-in-1", stream=stream)
    response = events(answer)[-1]["response"] if stream else answer.json()
    path = f"{RESPONSES}/{response['id']}"
    direct = requests.get(f"{provider.base_url}/responses/{response['id']}")
    found = weir.get(path, key=KEY)
    assert (found.status_code, found.content) == (200, direct.content)
    assert found.headers["X-Weir-Provider"] == "second"
    assert found.headers["X-Weir-Cost-USD"] == "0"
    left = int(found.headers["X-RateLimit-Remaining"])
    assert int(weir.get(path, key=KEY).headers["X-RateLimit-Remaining"]) >= left
    items = weir.get(f"{path}/input_items", key=KEY, params={"limit": 1, "include[]": "x"})
    assert items.json()["data"][0]["content"][0]["text"] == f"keep me {stream}"
    [call] = provider.calls(f"{RESPONSES}/{response['id']}/input_items")
    assert call["query"] == "limit=1&include%5B%5D=x"
    for method, below in (
        ("GET", ""),
        ("DELETE", ""),
        ("POST", "/cancel"),
        ("GET", "/input_items"),
    ):
        refused(weir.request(method, f"{path}{below}", key=OTHER), response["id"])
        refused(weir.request(method, f"{RESPONSES}/resp_nothing{below}", key=KEY), "resp_nothing")
    cancelled = weir.post(f"{path}/cancel", key=KEY)
    message = check_error(cancelled, 400, "provider_refused_request")
    assert "Only background responses" in message
    gone = weir.request("DELETE", path, key=KEY)
    assert gone.json() == {"id": response["id"], "object": "response.deleted", "deleted": True}
    refused(weir.get(path, key=KEY), response["id"])


def test_what_the_provider_does_not_keep_is_not_found(weir: Weir, provider: Provider) -> None:
    response = ask(weir, "forget me").json()
    requests.delete(f"{provider.base_url}/responses/{response['id']}")
    refused(weir.get(f"{RESPONSES}/{response['id']}", key=KEY), response["id"])
    stateless = ask(weir, "never kept", store=False).json()
    before = len(provider.calls())
    refused(weir.get(f"{RESPONSES}/{stateless['id']}", key=KEY), stateless["id"])
    assert len(provider.calls()) == before


def test_a_response_is_not_streamed_again(weir: Weir) -> None:
    path = f"{RESPONSES}/{ask(weir, 'not again').json()['id']}"
    answer = weir.get(path, key=KEY, params={"stream": "true"})
    assert "stream" in check_error(answer, 400, "validation_error")


def test_errors_of_the_paths_below_are_those_of_other_calls(weir: Weir, provider: Provider) -> None:
    path = f"{RESPONSES}/{ask(weir, 'then it fails').json()['id']}"
    for fault, status, code in (
        ({"status": 500}, 502, "provider_failed"),
        ({"status": 429}, 503, "provider_busy"),
        ({"status": 401}, 502, "provider_refused_weir"),
        ({"garbage": True}, 502, "provider_failed"),
    ):
        provider.fault(**fault)
        check_error(weir.get(path, key=KEY), status, code)


@pytest.mark.parametrize("stream", [False, True])
def test_a_conversation_goes_on_at_the_provider_that_keeps_it(
    routed: Weir, provider: Provider, stream: bool
) -> None:
    provider.fault(status=500, path="/azure/openai/v1/responses")
    first = ask(routed, f"first {stream}", model="both")
    assert first.headers["X-Weir-Provider"] == "openai"
    previous = first.json()["id"]
    provider.fault()
    for model in ("both", "other"):
        words = f"second {stream} {model}"
        answer = ask(routed, words, model=model, previous_response_id=previous, stream=stream)
        assert (answer.status_code, answer.headers["X-Weir-Provider"]) == (200, "openai")
    provider.fault(status=500, path=RESPONSES)
    answer = ask(routed, f"third {stream}", model="both", previous_response_id=previous)
    check_error(answer, 502, "provider_failed")
    assert not calls_about(provider, f"third {stream}", "/azure/openai/v1/responses")
    answer = ask(routed, "elsewhere", model="azure", previous_response_id=previous)
    assert "no target" in check_error(answer, 400, "validation_error")
    for id_, key in ((previous, OTHER), ("resp_nothing", KEY)):
        answer = ask(routed, "mine", key, model="both", previous_response_id=id_)
        check_error(answer, 404, "previous_response_not_found")
        assert answer.json()["error"]["param"] == "previous_response_id"


@pytest.mark.parametrize("stream", [False, True])
def test_reasoning_that_another_target_encrypted_is_tried_there(
    routed: Weir, provider: Provider, stream: bool
) -> None:
    provider.fault(status=400, code="invalid_encrypted_content", path="/azure/openai/v1/responses")
    answer = ask(routed, f"whose reasoning {stream}", model="both", stream=stream)
    assert (answer.status_code, answer.headers["X-Weir-Provider"]) == (200, "openai")
    answer = ask(routed, f"nobody's reasoning {stream}", model="azure", stream=stream)
    check_error(answer, 400, "invalid_encrypted_content")


@pytest.fixture(scope="module")
def routed(start_shared_weir: MakeWeir, provider: Provider) -> Weir:
    root = provider.base_url.removesuffix("/v1")
    return start_shared_weir(
        API_KEYS=f"test:enterprise:{KEY},other:enterprise:{OTHER}",
        TIERS="enterprise=99999/minute",
        OPENAI_BASE_URL=provider.base_url,
        AZURE_OPENAI_API_KEY="any",
        AZURE_OPENAI_ENDPOINT=f"{root}/azure",
        ANTHROPIC_API_KEY="sk-ant-secret-0123456789",
        ANTHROPIC_BASE_URL=provider.anthropic_url,
        MODEL_ROUTES="both=azure/one>openai/stand-in-1;other=openai/stand-in-2;azure=azure/one;"
        "claude=anthropic/stand-in-claude>openai/stand-in-1",
        LLM_MAX_RETRIES=0,
        BREAKER_FAILURES=1_000_000,
    )


# -- what is shared with other endpoints --


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"store": True},
        {"store": False, "conversation": "conv_1"},
        {"store": False, "prompt": {"id": "pmpt_1"}},
        {"store": False, "tools": [{"type": "code_interpreter", "container": {"type": "auto"}}]},
        {"store": False, "input": [{"type": "item_reference", "id": "msg_1"}]},
        {"store": False, "input": [{"id": "msg_1"}]},
        {"store": False, "input": [{"type": "reasoning", "id": "rs_1", "summary": []}]},
    ],
)
def test_what_has_state_at_the_provider_is_not_kept(weir: Weir, fields: dict[str, Any]) -> None:
    path = f"/v1/explain?endpoint={RESPONSES}"
    told = weir.post(path, key=KEY, json=said("state") | fields).json()
    assert (told["cache"], told["would_coalesce"]) == ("BYPASS", False)


def test_explain_knows_the_endpoint(weir: Weir, provider: Provider) -> None:
    path = f"/v1/explain?endpoint={RESPONSES}"
    sent = said("explain me", instructions="a few words more", max_output_tokens=100, store=False)
    told = weir.post(path, key=KEY, json=sent).json()
    assert (told["route"], told["cache"]) == ("openai/stand-in-1", "MISS")
    assert told["input_tokens"] >= 6
    assert 100 * 5 / 1e6 <= told["cost_ceiling_usd"] < 200 * 5 / 1e6
    assert not calls_about(provider, "explain me")
    weir.post(RESPONSES, key=KEY, json=sent)
    assert weir.post(path, key=KEY, json=sent).json()["cache"] == "HIT"


@pytest.mark.parametrize(
    ("fields", "least"),
    [
        ({"max_output_tokens": 100}, 100 * 5),
        ({}, 4000 * 5),
        ({"conversation": "conv_1", "max_output_tokens": 1}, 20_000),
        ({"prompt": {"id": "pmpt_1"}, "max_output_tokens": 1}, 20_000),
        ({"input": [{"id": "msg_1"}], "max_output_tokens": 1}, 20_000),
        ({"input": [{"type": "reasoning", "id": "rs_1"}], "max_output_tokens": 1}, 20_000),
        (
            {"tools": [{"type": "web_search"}], "max_tool_calls": 3, "max_output_tokens": 1},
            20_000 + 3 * 10_000,
        ),
    ],
)
def test_the_ceiling_of_a_request(weir: Weir, fields: dict[str, Any], least: float) -> None:
    told = weir.post(f"/v1/explain?endpoint={RESPONSES}", key=KEY, json=said("dear", **fields))
    micro = told.json()["cost_ceiling_usd"] * 1e6
    assert least <= micro <= least + 400


@pytest.mark.parametrize(
    ("tool", "named"),
    [
        ({"type": "web_search"}, "tools.0"),
        ({"type": "file_search", "vector_store_ids": ["vs_1"]}, "tools.0"),
        ({"type": "code_interpreter", "container": {"type": "auto"}}, "tools.0"),
        ({"type": "shell", "environment": {"type": "container_auto"}}, "tools.0"),
        ({"type": "namespace", "name": "n", "tools": [{"type": "mcp"}]}, "tools.0.tools.0"),
    ],
)
def test_a_hosted_tool_without_a_price_is_not_for_keys_with_a_budget(
    weir: Weir, tool: dict[str, Any], named: str
) -> None:
    answer = ask(weir, "dear tools", POOR, tools=[tool], max_output_tokens=10)
    assert named in check_error(answer, 403, "model_not_priced")


def test_tools_of_the_client_are_for_everybody(weir: Weir) -> None:
    function = {"type": "function", "name": "look", "parameters": {"type": "object"}}
    for tools in (
        [function, {"type": "custom", "name": "patch"}, {"type": "local_shell"}],
        [{"type": "namespace", "name": "n", "tools": [function]}],
    ):
        answer = ask(weir, "look", POOR, tools=tools, max_output_tokens=10)
        assert answer.status_code == 200, answer.text


def test_a_budget_sends_a_limit_on_the_output(weir: Weir, provider: Provider) -> None:
    answer = ask(weir, "limited by money", POOR)
    assert answer.status_code == 200
    [call] = calls_about(provider, "limited by money")
    assert call["body"]["max_output_tokens"] == 4000
    ask(weir, "not limited")
    assert "max_output_tokens" not in calls_about(provider, "not limited")[0]["body"]
    answer = ask(weir, "too dear", POOR, max_output_tokens=1_000_000)
    check_error(answer, 429, "budget_exceeded")
    assert answer.headers["x-should-retry"] == "false"


def test_a_repeated_request_gets_the_first_answer(weir: Weir, provider: Provider) -> None:
    for stream in (False, True):
        headers = {"Idempotency-Key": f"responses-{stream}"}
        sent = said(f"only once {stream}", stream=stream)
        first, second = (
            weir.post(RESPONSES, key=KEY, json=sent, headers=headers) for _ in range(2)
        )
        assert first.content == second.content
        assert second.headers["Idempotency-Replayed"] == "true"
        assert len(calls_about(provider, f"only once {stream}")) == 1


@pytest.mark.parametrize("stream", [False, True])
def test_a_response_is_logged_and_metered(weir: Weir, stream: bool) -> None:
    answer = ask(weir, f"in the log {stream}", stream=stream)
    line = weir.log_of(answer)
    assert (line["endpoint"], line["provider"], line["model"]) == (
        RESPONSES,
        "openai",
        "stand-in-1",
    )
    assert line["tokens"] > 0
    assert "in the log" in line["prompt"]
    assert "in the log" in line["answer"]
    assert f'endpoint="{RESPONSES}"' in weir.get("/metrics").text


# -- targets that do not have the API --


@pytest.mark.parametrize("stream", [False, True])
def test_a_server_without_responses_is_asked_once_an_hour(
    weir: Weir, provider: Provider, stream: bool
) -> None:
    model = f"chat-alone-{stream}"
    provider.fault(status=404, path=RESPONSES)
    for words in ("first", "second"):
        answer = ask(weir, f"{words} to {model}", model=model, stream=stream)
        assert (answer.status_code, answer.headers["X-Weir-Attempts"]) == (200, "1")
        response = events(answer)[-1]["response"] if stream else answer.json()
        assert response["status"] == "completed"
        assert response["store"] is False
        refused(weir.get(f"{RESPONSES}/{response['id']}", key=KEY), response["id"])
    assert len(calls_about(provider, f"to {model}")) == 1
    provider.fault()
    answer = ask(weir, "another model", model=f"{model}-2", stream=stream)
    assert len(calls_about(provider, "another model")) == 1


def test_a_missing_model_or_response_is_not_a_missing_path(weir: Weir, provider: Provider) -> None:
    fault = "[[fault:status=404,code=model_not_found]]"
    check_error(ask(weir, f"no such model {fault}", model="missing"), 404, "model_not_found")
    assert not calls_about(provider, "no such model", "/v1/chat/completions")
    provider.fault(status=404, path=RESPONSES)
    ask(weir, "in a conversation", model="missing", conversation="conv_1")
    assert not calls_about(provider, "in a conversation", "/v1/chat/completions")


@pytest.mark.parametrize("stream", [False, True])
def test_a_route_over_both_families_fails_over(
    routed: Weir, provider: Provider, stream: bool
) -> None:
    words = f"over both {stream}"
    answer = ask(routed, words, model="claude", stream=stream)
    assert (answer.status_code, answer.headers["X-Weir-Provider"]) == (200, "anthropic")
    provider.fault(status=529, path="/anthropic/v1/messages")
    answer = ask(routed, words, model="claude", stream=stream)
    assert (answer.status_code, answer.headers["X-Weir-Provider"]) == (200, "openai")
    assert answer.headers["X-Weir-Attempts"] == "2"
    assert calls_about(provider, words)


@pytest.mark.parametrize("stream", [False, True])
def test_a_404_of_chat_completions_too_is_not_remembered(
    weir: Weir, provider: Provider, stream: bool
) -> None:
    words, model = f"missing everywhere {stream}", f"found-later-{stream}"
    ask(weir, f"{words} [[fault:status=404]]", model=model, stream=stream)
    assert calls_about(provider, words, "/v1/chat/completions")
    answer = ask(weir, f"then here {stream}", model=model, stream=stream)
    assert answer.status_code == 200
    assert calls_about(provider, f"then here {stream}")
