"""What is read from answers in the format of OpenAI's Responses, and from their events."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.faults import Fault
from tests.support.responses import Response
from webapp.base_url import BaseURL
from webapp.errors import ProviderBusy, ProviderFailed, ProviderRefusedRequest, WeirError
from webapp.llm.messages import Answer, Chunk, ModelRequest
from webapp.llm.stream_usage import StreamUsage
from webapp.providers.openai import AzureProvider
from webapp.providers.response_answers import ResponseReader, read_response

BODY: dict[str, Any] = {"model": "gpt-x", "input": "one two three"}


def request_of(**fields: Any) -> ModelRequest:
    body = {name: value for name, value in (BODY | fields).items() if name != "model"}
    return ModelRequest(body, "gpt-x", operation="responses", native=False)


def made(**fields: Any) -> Response:
    return Response(BODY | fields, Fault())


def read(body: dict[str, Any], **fields: Any) -> Answer:
    return read_response(json.dumps(body), request_of(**fields), "gpt-x", "openai")


def stream(*events: Any, **fields: Any) -> tuple[list[Chunk], Answer]:
    reader = ResponseReader(request_of(**fields), "gpt-x", "openai", StreamUsage(lambda: None))
    chunks = [chunk for event in events for chunk in reader.read(json.dumps(event))]
    reader.end(said_done=False)
    return chunks, reader.answer()


def test_the_usage_of_an_answer() -> None:
    usage = made(reasoning={"effort": "low"}, include=[]).usage | {"total_tokens": 20}
    answer = read(made().whole() | {"usage": usage, "service_tier": "priority"})
    assert (answer.usage.input_tokens, answer.usage.cached_input_tokens) == (3, 2)
    # What is in the total alone is output.
    assert answer.usage.output_tokens == 17
    assert (answer.usage.service_tier, answer.usage.estimated) == ("priority", False)


@pytest.mark.parametrize(
    ("fields", "searches"),
    [
        ({}, 2),
        ({"tool_usage": {"web_search": {"num_requests": 5}}}, 5),
        ({"tool_usage": {"web_search": None}}, 2),
    ],
)
def test_web_searches_are_counted(fields: dict[str, Any], searches: int) -> None:
    actions = [{"type": "search"}, {"type": "open_page"}, None]
    calls = [{"type": "web_search_call", "action": action} for action in actions]
    tools = [{"type": "web_search"}]
    whole = made().whole()
    whole = whole | {"output": calls + whole["output"]} | fields
    assert read(whole, tools=tools, max_tool_calls=9).usage.web_searches == searches
    _, answer = stream({"type": "response.completed", "response": whole}, tools=tools)
    assert answer.usage.web_searches == searches


def test_an_answer_without_usage_is_estimated_from_what_it_says() -> None:
    whole = made().whole() | {"usage": None}
    assert read(whole).usage.estimated
    _, answer = stream(*[event for event in made().events() if "completed" not in event["type"]],
                       {"type": "response.completed", "response": whole})  # fmt: skip
    assert answer.usage.estimated
    assert 0 < answer.usage.output_tokens <= read(whole).usage.output_tokens
    assert answer.content == "echo: one two three"


def test_the_whole_answer_of_a_server_that_does_not_stream_becomes_events() -> None:
    whole = made(reasoning={"effort": "low"}, stream=True).whole()
    chunks, answer = stream(whole)
    events = [json.loads(chunk.data) for chunk in chunks]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert events[0]["type"] == "response.created"
    assert events[-1] == {
        "type": "response.completed", "sequence_number": len(events) - 1, "response": whole,
    }  # fmt: skip
    assert answer.content == "echo: one two three"
    assert chunks[0].stored_id == whole["id"]


def test_events_before_any_content_leave_the_way_open_to_another_provider() -> None:
    chunks, _ = stream(*made(reasoning={"effort": "low"}).events())
    kinds = [json.loads(chunk.data)["type"] for chunk in chunks]
    first = [chunk.begins for chunk in chunks].index(True)
    assert kinds[first] == "response.reasoning_summary_text.delta"
    tool = {"type": "function", "name": "look", "parameters": {"type": "object"}}
    chunks, _ = stream(*made(tools=[tool]).events())
    assert [chunk.begins for chunk in chunks].index(True) == 2


@pytest.mark.parametrize(
    ("told", "asked", "stored"),
    [({}, {}, True), ({"store": False}, {}, False), ({}, {"store": False}, False),
     ({"id": None}, {}, False), ({"id": "x" * 300}, {}, False), ({"id": "a b"}, {}, False)],
)  # fmt: skip
def test_whether_the_provider_keeps_an_answer(
    told: dict[str, Any], asked: dict[str, Any], stored: bool
) -> None:
    assert bool(read(made().whole() | told, **asked).stored_id) is stored
    created = {"type": "response.created", "response": made().whole() | told}
    completed = {"type": "response.completed", "response": made().whole()}
    chunks, _ = stream(created, completed, **asked)
    assert bool(chunks[0].stored_id) is stored


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ({"code": "server_error", "message": "It broke."}, ProviderFailed),
        ({"code": "rate_limit_exceeded", "message": "Too much."}, ProviderBusy),
        ({"code": "invalid_prompt", "message": "No."}, ProviderRefusedRequest),
        (None, ProviderFailed),
    ],
)
def test_a_response_that_failed_is_an_error_with_its_usage(
    error: Any, kind: type[WeirError]
) -> None:
    failed = made().whole() | {"status": "failed", "error": error}
    with pytest.raises(kind) as raised:
        read(failed)
    assert raised.value.usage.input_tokens == 3
    with pytest.raises(kind) as raised:
        stream({"type": "response.failed", "sequence_number": 1, "response": failed})
    assert raised.value.usage.input_tokens == 3


def test_an_error_beside_the_response_counts_too() -> None:
    failed = {"id": "resp_1", "status": "failed", "error": None, "output": []}
    error = {"code": "rate_limit_exceeded", "message": "Too much."}
    with pytest.raises(ProviderBusy, match=r"Too much\."):
        stream({"type": "response.failed", "response": failed, "error": error})


def test_which_servers_have_responses() -> None:
    for make, version, expected in (
        (AzureProvider, "", True),
        (AzureProvider, "preview", True),
        (AzureProvider, "2024-10-21", False),
    ):
        address = BaseURL("https://example.com")
        provider = make("any", api_key="x", address=address, api_version=version, timeout=1.0)
        assert ("responses" in provider.operations_of("any")) is expected


@pytest.mark.parametrize(
    "event",
    [
        {"type": "error", "code": "rate_limit_exceeded", "message": "Too much.", "param": None},
        {"type": "error", "error": {"code": "rate_limit_exceeded", "message": "Too much."}},
        {"type": "error", "message": None, "code": "rate_limit_exceeded", "error": "Too much."},
        {"error": {"code": "rate_limit_exceeded", "message": "Too much."}},
    ],
)
def test_an_error_event_is_an_error(event: dict[str, Any]) -> None:
    with pytest.raises(ProviderBusy, match=r"Too much\."):
        stream(event)


@pytest.mark.parametrize(
    "event", [[], 7, {}, {"type": 7}, {"type": "response.created"}, {"type": "response.completed"}]
)
def test_what_is_no_event_is_a_failure(event: Any) -> None:
    with pytest.raises(ProviderFailed):
        stream(event)


def test_the_last_event_may_have_nothing_but_the_usage() -> None:
    *events, last = made().events()
    bare = {"id": "resp_1", "object": "response", "status": "completed"}
    usage = {"usage": last["response"]["usage"]}
    for fields in ({}, usage, usage | {"output": None}):
        chunks, answer = stream(*events, last | {"response": bare | fields})
        assert len(chunks) == len(events) + 1
        assert answer.content == "echo: one two three"
        assert answer.usage.estimated is (not fields)


def test_what_is_new_is_passed_on() -> None:
    events = list(made().events())
    new = {"type": "response.novelty.happened", "sequence_number": 4, "more": {"fields": 1}}
    chunks, _ = stream(*events[:4], new, *events[4:])
    assert [json.loads(chunk.data) for chunk in chunks] == [*events[:4], new, *events[4:]]
