"""Responses told to a provider of chat completions or Messages, and its answers as Responses."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterable
from typing import Any, get_type_hints

import pytest
from openai import omit
from openai.lib.streaming.responses._responses import ResponseStreamState
from openai.types.responses import Response, ResponseStreamEvent
from openai.types.responses.response_create_params import ResponseCreateParamsStreaming
from pydantic import TypeAdapter

from webapp.errors import UnsupportedParameter
from webapp.llm.messages import Answer, ModelRequest, Usage
from webapp.providers.translation import TRANSLATIONS
from webapp.providers.translation.responses_over_chat import request as translated_request
from webapp.providers.translation.responses_over_chat.answer import ResponseWriter, to_response
from webapp.providers.translation.responses_over_chat.reasoning import without_own
from webapp.providers.translation.responses_over_chat.request import max_tokens_of, to_chat
from webapp.providers.translation.responses_over_chat.tools import function_name

MODEL = "qwen3"
HELLO = {"role": "user", "content": "Hello"}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOL = {"type": "function", "name": "weather", "description": "Tells it", "parameters": SCHEMA}
FUNCTION = {
    "type": "function",
    "function": {"name": "weather", "description": "Tells it", "parameters": SCHEMA},
}
GRAMMAR = {"type": "grammar", "syntax": "lark", "definition": 'start: "*** Begin Patch"'}
PATCH = {"type": "custom", "name": "apply_patch", "description": "Edits", "format": GRAMMAR}
AGENTS = {
    "type": "namespace", "name": "agents", "description": "Sub-agents",
    "tools": [{"type": "function", "name": "wait", "parameters": SCHEMA, "strict": False}],
}  # fmt: skip
SEARCH = {
    "type": "tool_search",
    "execution": "client",
    "description": "Finds",
    "parameters": SCHEMA,
}
CALL = {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": "{}"}
OUTPUT = {"type": "function_call_output", "call_id": "call_1", "output": "9 C"}
HM = {
    "type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm."}],
    "encrypted_content": "weir.unsigned",
}  # fmt: skip
CALLED = {
    "id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{}"},
}  # fmt: skip
URL = "data:image/png;base64,aGk="
IMAGE = {"type": "input_image", "image_url": URL, "detail": "auto"}
FORMAT = {"type": "json_schema", "name": "answer", "schema": SCHEMA, "strict": True}


def asked(**fields: Any) -> dict[str, Any]:
    return to_chat({"input": "Hello", **fields}, MODEL)


def said(*items: Any, claude: bool = False) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = to_chat({"input": list(items)}, MODEL, claude=claude)["messages"]
    return found


def text(words: str, kind: str = "input_text", **fields: Any) -> dict[str, Any]:
    return {"type": kind, "text": words, **fields}


def message(role: str, *parts: Any, **fields: Any) -> dict[str, Any]:
    return {"type": "message", "role": role, "content": list(parts), **fields}


CARRIED: list[Any] = [
    ({"instructions": "Be"}, {"messages": [{"role": "system", "content": "Be"}, HELLO]}),
    ({"temperature": 0.5, "top_p": 0.9}, {"temperature": 0.5, "top_p": 0.9}),
    ({"user": "ann"}, {"user": "ann"}),
    ({"user": "ann", "safety_identifier": "a1"}, {"user": "a1"}),
    ({"service_tier": "flex"}, {"service_tier": "flex"}),
    ({"reasoning": {"effort": "high", "summary": "auto"}}, {"reasoning_effort": "high"}),
    ({"text": {"verbosity": "low"}}, {"verbosity": "low"}),
    ({"text": {"format": {"type": "json_object"}}}, {"response_format": {"type": "json_object"}}),
    (
        {"text": {"format": FORMAT}},
        {"response_format": {"type": "json_schema", "json_schema": {
            "name": "answer", "schema": SCHEMA, "strict": True}}},
    ),
    ({"top_logprobs": 3}, {"logprobs": True, "top_logprobs": 3}),
    ({"include": ["message.output_text.logprobs"]}, {"logprobs": True}),
    ({"tools": [TOOL]}, {"tools": [FUNCTION]}),
    (
        {"tools": [{**TOOL, "strict": True}], "tool_choice": "required",
         "parallel_tool_calls": False},
        {"tools": [{**FUNCTION, "function": {**FUNCTION["function"], "strict": True}}],  # type: ignore[dict-item]
         "tool_choice": "required", "parallel_tool_calls": False},
    ),
    (
        {"tools": [TOOL], "tool_choice": {"type": "function", "name": "weather"}},
        {"tools": [FUNCTION],
         "tool_choice": {"type": "function", "function": {"name": "weather"}}},
    ),
    (
        {"tools": [TOOL, PATCH], "tool_choice": {
            "type": "allowed_tools", "mode": "auto",
            "tools": [{"type": "function", "name": "weather"}]}},
        {"tools": [FUNCTION], "tool_choice": "auto"},
    ),
]  # fmt: skip
# What means the same as nothing, what is for Weir, and what only the answer repeats.
NOTHING: list[Any] = [
    {"background": False, "truncation": "disabled", "tools": [], "tool_choice": "auto"},
    {"store": True, "metadata": {"a": "b"}, "client_metadata": {"a": "b"}, "max_tool_calls": 3},
    {"prompt_cache_key": "k", "prompt_cache_options": {"mode": "implicit"}},
    {"prompt_cache_retention": "24h", "stream_options": {"include_obfuscation": False}},
    {"service_tier": "auto", "text": {"verbosity": "medium", "format": {"type": "text"}}},
    {"include": ["reasoning.encrypted_content", "web_search_call.action.sources"]},
    {"context_management": [], "image": {"context_compression": "auto"}, "stream": False},
    {"max_output_tokens": 9, "parallel_tool_calls": True, "reasoning": {"mode": "standard"}},
]


@pytest.mark.parametrize(("fields", "carried"), CARRIED, ids=str)
def test_a_parameter_is_carried_over(fields: Any, carried: dict[str, Any]) -> None:
    assert asked(**fields) == {"messages": [HELLO]} | carried


@pytest.mark.parametrize("fields", NOTHING, ids=str)
def test_what_changes_no_answer_is_left_out(fields: Any) -> None:
    assert asked(**fields) == {"messages": [HELLO]}


REFUSED: list[Any] = [
    ({"previous_response_id": "resp_1"}, "previous_response_id"),
    ({"conversation": "conv_1"}, "conversation"),
    ({"prompt": {"id": "pmpt_1"}}, "prompt"),
    ({"background": True}, "background"),
    ({"truncation": "auto"}, "truncation"),
    ({"context_management": [{"type": "compaction"}]}, "context_management"),
    ({"moderation": {"model": "omni-moderation-latest"}}, "moderation"),
    ({"access_programs": {"cyber": "standard"}}, "access_programs"),
    ({"image": {"context_compression": "enabled"}}, "image"),
    ({"x_unknown": 1}, "x_unknown"),
    ({"input": []}, "input"),
    ({"input": None}, "input"),
    ({"reasoning": {"mode": "pro"}}, "reasoning.mode"),
    ({"text": {"format": {"type": "grammar"}}}, "text.format.type"),
    ({"text": {"verbosity": ["low"]}}, "text.verbosity"),
    ({"include": ["x"]}, "include[0]"),
    ({"include": [{}]}, "include[0]"),
    ({"tools": [TOOL, {"type": "web_search"}]}, "tools[1].type"),
    ({"tools": [{"type": "tool_search"}]}, "tools[0].type"),
    ({"tools": [{"type": "local_shell"}]}, "tools[0].type"),
    ({"tools": [{"type": "mcp", "server_label": "a"}]}, "tools[0].type"),
    ({"tools": [{**AGENTS, "tools": [AGENTS]}]}, "tools[0].tools[0].type"),
    ({"tools": [TOOL, TOOL]}, "tools[1]"),
    ({"tools": [{**TOOL, "x": 1}]}, "tools[0].x"),
    ({"tools": [TOOL], "tool_choice": {"type": "file_search"}}, "tool_choice.type"),
    ({"tools": [TOOL], "tool_choice": {"type": "function", "name": "x"}}, "tool_choice.name"),
    ({"tools": [TOOL], "tool_choice": "any"}, "tool_choice"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0].type"),
    ({"input": [{"type": "web_search_call", "id": "ws_1"}]}, "input[0].type"),
    ({"input": [{"type": ["message"]}]}, "input[0].type"),
    ({"input": [{"type": "compaction", "encrypted_content": "x"}]}, "input[0].type"),
    ({"input": [{"role": "king", "content": "x"}]}, "input[0].role"),
    ({"input": [message("user", {"type": "input_audio"})]}, "input[0].content[0].type"),
    ({"input": [message("system", IMAGE)]}, "input[0].content[0].type"),
    (
        {"input": [message("user", {**IMAGE, "file_id": "file_1"})]},
        "input[0].content[0].file_id",
    ),
    (
        {"input": [message("user", {"type": "input_file", "file_url": "https://x.example"})]},
        "input[0].content[0].file_url",
    ),
    ({"input": [OUTPUT]}, "input[0].call_id"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "parameter"), REFUSED, ids=str)
def test_what_cannot_be_carried_over_is_named(fields: Any, parameter: str) -> None:
    with pytest.raises(UnsupportedParameter) as refusal:
        asked(**fields)
    assert refusal.value.parameter == parameter


def test_every_field_of_a_request_is_carried_ignored_or_refused() -> None:
    fields = get_type_hints(ResponseCreateParamsStreaming).keys() - {"model", "stream"}
    tried = [*(given for given, _ in (*CARRIED, *REFUSED)), *NOTHING, {"input": 0}]
    assert fields <= {name for given in tried for name in given}
    known = translated_request.CARRIED | translated_request.IGNORED
    refused = {name for given, name in REFUSED for name in [name] if name in fields}
    assert fields <= known | refused | translated_request.NEUTRAL.keys() | {"max_output_tokens"}


def test_the_limit_on_the_output_is_told_apart() -> None:
    assert max_tokens_of({}) is None
    assert max_tokens_of({"max_output_tokens": 9}) == 9
    for value in (0, "9", True):
        with pytest.raises(UnsupportedParameter):
            max_tokens_of({"max_output_tokens": value})


def tool_message(content: Any, call_id: str = "call_1") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": content}


def assistant(content: Any = None, **fields: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **fields}


PICTURE = {"type": "image_url", "image_url": {"url": URL}}


@pytest.mark.parametrize(
    ("items", "carried"),
    [
        ([message("user", text("a"))], [{"role": "user", "content": "a"}]),
        ([message("user", text("a"), IMAGE)],
         [{"role": "user", "content": [{"type": "text", "text": "a"}, PICTURE]}]),
        ([message("user", {**IMAGE, "detail": "original"})],
         [{"role": "user", "content": [
             {"type": "image_url", "image_url": {"url": URL, "detail": "high"}}]}]),
        ([message("user", {"type": "input_file", "filename": "a.pdf", "file_data": "data:x"})],
         [{"role": "user", "content": [
             {"type": "file", "file": {"file_data": "data:x", "filename": "a.pdf"}}]}]),
        # One system message, at the start.
        ([message("developer", text("a")), HELLO, {"role": "system", "content": "b"}],
         [{"role": "system", "content": "a\n\nb"}, HELLO]),
        # What the model said in a row is one message, with the results behind it.
        ([message("assistant", text("So.", "output_text", annotations=[]), id="msg_1",
                  status="completed", phase="commentary"),
          CALL, {**CALL, "call_id": "call_2"}, OUTPUT, {**OUTPUT, "call_id": "call_2"}],
         [assistant("So.", tool_calls=[CALLED, {**CALLED, "id": "call_2"}]),
          tool_message("9 C"), tool_message("9 C", "call_2")]),
        ([CALL, OUTPUT, {**CALL, "call_id": "call_2"}, {**OUTPUT, "call_id": "call_2"}],
         [assistant(tool_calls=[CALLED]), tool_message("9 C"),
          assistant(tool_calls=[{**CALLED, "id": "call_2"}]), tool_message("9 C", "call_2")]),
        ([CALL, HELLO, OUTPUT], [assistant(tool_calls=[CALLED]), tool_message("9 C"), HELLO]),
        ([CALL, message("assistant", text("So.", "output_text")), OUTPUT],
         [assistant("So.", tool_calls=[CALLED]), tool_message("9 C")]),
        ([message("assistant", {"type": "refusal", "refusal": "No."})], [assistant("No.")]),
        # Results with images, which messages of tools cannot hold.
        ([CALL, {**CALL, "call_id": "call_2"}, {**OUTPUT, "output": [text("a"), IMAGE]},
          {**OUTPUT, "call_id": "call_2"}],
         [assistant(tool_calls=[CALLED, {**CALLED, "id": "call_2"}]), tool_message("a"),
          tool_message("9 C", "call_2"), {"role": "user", "content": [PICTURE]}]),
        ([CALL, {**OUTPUT, "output": [IMAGE]}],
         [assistant(tool_calls=[CALLED]), tool_message("(in the next message)"),
          {"role": "user", "content": [PICTURE]}]),
        ([CALL, {**OUTPUT, "output": ""}],
         [assistant(tool_calls=[CALLED]), tool_message("(no content)")]),
        # Arguments that are no object are refused by many servers.
        ([{**CALL, "arguments": "Bern"}],
         [assistant(tool_calls=[{**CALLED, "function": {
             "name": "weather", "arguments": '{"invalid_arguments": "Bern"}'}}])]),
        # Custom tools, namespaces and searches for tools.
        ([{"type": "custom_tool_call", "call_id": "call_1", "name": "apply_patch", "input": "*\n"},
          {"type": "custom_tool_call_output", "call_id": "call_1", "output": "ok"}],
         [assistant(tool_calls=[{**CALLED, "function": {
             "name": "apply_patch", "arguments": '{"input": "*\\n"}'}}]), tool_message("ok")]),
        ([{**CALL, "name": "wait", "namespace": "agents"}],
         [assistant(tool_calls=[{**CALLED, "function": {
             "name": "agents__wait", "arguments": "{}"}}])]),
        ([{"type": "tool_search_call", "call_id": "call_1", "execution": "client",
           "arguments": {"city": "x"}},
          {"type": "tool_search_output", "call_id": "call_1", "execution": "client",
           "tools": [TOOL]}],
         [assistant(tool_calls=[{**CALLED, "function": {
             "name": "tool_search", "arguments": '{"city": "x"}'}}]),
          tool_message('{"tools": [{"name": "weather", "description": "Tells it"}]}')]),
        # Reasoning: another maker's is left out, what nobody signed goes back.
        ([{"type": "reasoning", "id": "rs_1", "summary": [text("Hm.", "summary_text")],
           "encrypted_content": "gAAAA"}, CALL], [assistant(tool_calls=[CALLED])]),
        ([{"type": "reasoning", "id": "rs_1", "summary": [text("Hm.", "summary_text")],
           "content": None, "encrypted_content": None}, CALL],
         [assistant(reasoning_content="Hm.", tool_calls=[CALLED])]),
        ([{**HM, "id": "rs_1"}, CALL],
         [assistant(reasoning_content="Hm.", tool_calls=[CALLED])]),
        ([{"type": "reasoning", "id": "rs_1", "summary": []}, HELLO], [HELLO]),
    ],
    ids=str,
)  # fmt: skip
def test_an_item_is_carried_over(items: Any, carried: list[Any]) -> None:
    assert said(HELLO, *items) == [
        *(one for one in carried if one["role"] == "system"),
        HELLO,
        *(one for one in carried if one["role"] != "system"),
    ]


def test_a_claude_gets_images_in_results_and_no_detail_or_verbosity() -> None:
    found = said(HELLO, CALL, {**OUTPUT, "output": [text("a"), {**IMAGE, "detail": "high"}]},
                 claude=True)  # fmt: skip
    assert found[-1] == tool_message([{"type": "text", "text": "a"}, PICTURE])
    assert "verbosity" not in to_chat(
        {"input": "a", "text": {"verbosity": "low"}}, MODEL, claude=True
    )


def test_a_claude_is_asked_to_cache_what_has_a_key_for_the_cache() -> None:
    asked = {"input": "a", "prompt_cache_key": "k"}
    assert to_chat(asked, MODEL, claude=True)["cache_control"] == {"type": "ephemeral"}
    assert "cache_control" not in to_chat({"input": "a"}, MODEL, claude=True) | to_chat(
        asked, MODEL
    )


def test_openai_gets_no_reasoning_of_other_makers() -> None:
    items = [HELLO, {"type": "reasoning", "encrypted_content": "gAAAA"}, CALL]
    assert without_own([HM, *items]) == items
    assert without_own(items) is items
    assert without_own("Hello") == "Hello"


def test_a_custom_tool_is_a_function_of_one_text() -> None:
    [tool] = asked(tools=[PATCH])["tools"]
    function = tool["function"]
    assert function["name"] == "apply_patch"
    assert function["parameters"]["required"] == ["input"]
    assert function["description"].startswith("Edits\n\n")
    assert GRAMMAR["definition"] in function["description"]


def test_tools_of_namespaces_and_found_tools_are_functions() -> None:
    found = {"type": "tool_search_output", "call_id": "call_1", "tools": [AGENTS]}
    searched = {"type": "tool_search_call", "call_id": "call_1", "arguments": {}}
    body = {"tools": [TOOL, SEARCH], "input": [HELLO, searched, found]}
    names = [tool["function"]["name"] for tool in to_chat(body, MODEL)["tools"]]
    assert names == ["weather", "tool_search", "agents__wait"]


def test_the_name_of_a_function_fits() -> None:
    assert function_name("a", None) == "a"
    assert function_name("a", "mcp__x__") == "mcp__x__a"
    long = function_name("a" * 60, "b" * 60)
    assert len(long) == 64
    assert long != function_name("a" * 61, "b" * 60)


# -- answers --

COUNTS = {
    "prompt_tokens": 15,
    "completion_tokens": 7,
    "total_tokens": 22,
    "prompt_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 2},
    "completion_tokens_details": {"reasoning_tokens": 3},
}
COUNTED = Usage(15, 7, 4, cache_write_5m_tokens=2)
TOOLS = [TOOL, PATCH, AGENTS, SEARCH]
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


def request(**fields: Any) -> ModelRequest:
    body = {"input": "Hello", "tools": TOOLS, **fields}
    return ModelRequest(body, MODEL, operation="responses", native=False, stream=True)


def chunk(delta: Any, reason: str | None = None, **fields: Any) -> str:
    choice = {"index": 0, "delta": delta, "finish_reason": reason, **fields}
    return json.dumps({"id": "chatcmpl-1", "model": MODEL, "choices": [choice]})


def deltas(answered: dict[str, Any]) -> list[dict[str, Any]]:
    """An answer as OpenAI and others stream it."""
    found: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    for name in ("reasoning_content", "thinking_blocks", "content", "refusal"):
        value = answered.get(name)
        if isinstance(value, str):
            found += [{name: letter} for letter in value]
        elif value:
            found += [{name: [{"index": i, **one}]} for i, one in enumerate(value)]
    for index, call in enumerate(answered.get("tool_calls") or []):
        begun = {"name": call["function"]["name"], "arguments": ""}
        found.append({"tool_calls": [{**call, "index": index, "function": begun}]})
        for letter in call["function"]["arguments"]:
            found.append({"tool_calls": [{"index": index, "function": {"arguments": letter}}]})
    return found


def streamed(chunks: Iterable[str], **fields: Any) -> list[dict[str, Any]]:
    """The events of a stream, each of which is valid for the SDK, in the order of their numbers."""
    writer = ResponseWriter(request(**fields), MODEL)
    written = [event for one in chunks for event in writer.take(one)]
    events = [json.loads(event) for event in [*written, *writer.end(COUNTED)]]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    state: ResponseStreamState[Any] = ResponseStreamState(text_format=omit, input_tools=omit)
    for event in events:
        state.handle_event(EVENT.validate_python(event))
    return events


def whole(answered: dict[str, Any], reason: str | None, **fields: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", **answered}, "finish_reason": reason}
    body = {"id": "chatcmpl-1", "model": MODEL, "choices": [choice], "usage": COUNTS}
    answer = Answer("", MODEL, "x", COUNTED, body=json.dumps(body))
    written: dict[str, Any] = json.loads(to_response(answer, request(**fields), MODEL))
    Response.model_validate(written)
    return written


def without_ids(value: Any) -> Any:
    if isinstance(value, list):
        return [without_ids(one) for one in value]
    if not isinstance(value, dict):
        return value
    times = {"id", "created_at", "completed_at"}
    return {name: without_ids(item) for name, item in value.items() if name not in times}


def called(name: str, arguments: str, id_: str = "call_1") -> dict[str, Any]:
    return {"id": id_, "type": "function", "function": {"name": name, "arguments": arguments}}


def output_text(words: str) -> dict[str, Any]:
    return {"type": "output_text", "text": words, "annotations": [], "logprobs": []}


def answer_item(*parts: Any, status: str = "completed") -> dict[str, Any]:
    return {"type": "message", "role": "assistant", "status": status, "content": list(parts)}


WEATHER = {
    "type": "function_call", "call_id": "call_1", "name": "weather", "status": "completed",
    "arguments": '{"city": "Bern"}',
}  # fmt: skip

ANSWERS = [
    pytest.param({"content": "Hi"}, "stop", [answer_item(output_text("Hi"))], id="text"),
    pytest.param({"content": ""}, "stop", [answer_item(output_text(""))], id="nothing"),
    pytest.param(
        {"content": "Hi"}, "length", [answer_item(output_text("Hi"), status="incomplete")],
        id="cut",
    ),
    pytest.param({"content": ""}, "content_filter", [], id="filtered"),
    pytest.param(
        {"content": None, "refusal": "No."}, "stop",
        [answer_item({"type": "refusal", "refusal": "No."})], id="refused",
    ),
    pytest.param(
        {"content": "Hi", "refusal": "No."}, "stop",
        [answer_item(output_text("Hi"), {"type": "refusal", "refusal": "No."})], id="both",
    ),
    pytest.param(
        {"content": "Hi", "reasoning_content": "Hm."}, "stop",
        [HM, answer_item(output_text("Hi"))], id="reasoning",
    ),
    pytest.param(
        {"content": "So.", "tool_calls": [
            called("weather", '{"city": "Bern"}'), called("weather", "", "call_2")]},
        "tool_calls",
        [answer_item(output_text("So.")), WEATHER,
         {**WEATHER, "call_id": "call_2", "arguments": "{}"}], id="tools",
    ),
    pytest.param(
        {"tool_calls": [called("apply_patch", '{"input": "*** Begin\\n"}')]}, "tool_calls",
        [{"type": "custom_tool_call", "call_id": "call_1", "name": "apply_patch",
          "input": "*** Begin\n", "status": "completed"}], id="custom",
    ),
    pytest.param(
        {"tool_calls": [called("apply_patch", "*** Begin")]}, "tool_calls",
        [{"type": "custom_tool_call", "call_id": "call_1", "name": "apply_patch",
          "input": "*** Begin", "status": "completed"}], id="custom-as-it-is",
    ),
    pytest.param(
        {"tool_calls": [called("agents__wait", "{}")]}, "stop",
        [{**WEATHER, "name": "wait", "namespace": "agents", "arguments": "{}"}], id="namespace",
    ),
    pytest.param(
        {"tool_calls": [called("tool_search", '{"query": "x"}')]}, "tool_calls",
        [{"type": "tool_search_call", "call_id": "call_1", "execution": "client",
          "arguments": {"query": "x"}, "status": "completed"}], id="search",
    ),
    pytest.param(
        {"tool_calls": [called("weather", '{"ci')]}, "length",
        [{**WEATHER, "arguments": '{"ci', "status": "incomplete"}], id="cut-call",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("answered", "reason", "output"), ANSWERS)
def test_an_answer_is_the_same_whole_and_streamed(
    answered: dict[str, Any], reason: str, output: list[Any]
) -> None:
    written = whole(answered, reason)
    assert without_ids(written["output"]) == output
    chunks = [*map(chunk, deltas(answered)), chunk({}, reason)]
    chunks.append(json.dumps({"choices": [], "usage": COUNTS}))
    events = streamed(chunks)
    assert without_ids(events[-1]["response"]) == without_ids(written)
    incomplete = {"length": "max_output_tokens", "content_filter": "content_filter"}.get(reason)
    status = "incomplete" if incomplete else "completed"
    assert events[-1]["type"] == f"response.{status}"
    assert written["status"] == status
    assert written["incomplete_details"] == ({"reason": incomplete} if incomplete else None)
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert done == events[-1]["response"]["output"]


def test_the_events_come_in_the_order_of_openai() -> None:
    answered = {
        "reasoning_content": "H", "content": "S", "tool_calls": [called("weather", "{}")],
    }  # fmt: skip
    events = streamed([*map(chunk, deltas(answered)), chunk({}, "tool_calls")])
    assert [event["type"].removeprefix("response.") for event in events] == [
        "created", "in_progress",
        "output_item.added", "reasoning_summary_part.added", "reasoning_summary_text.delta",
        "reasoning_summary_text.done", "reasoning_summary_part.done", "output_item.done",
        "output_item.added", "content_part.added", "output_text.delta",
        "output_text.done", "content_part.done", "output_item.done",
        "output_item.added", "function_call_arguments.delta", "function_call_arguments.delta",
        "function_call_arguments.done", "output_item.done",
        "completed",
    ]  # fmt: skip
    added = [event["item"] for event in events if event["type"] == "response.output_item.added"]
    assert [item.get("status") for item in added] == [None, "in_progress", "in_progress"]
    assert added[1]["content"] == []
    assert added[2]["arguments"] == ""
    assert events[0]["response"]["output"] == []
    assert events[0]["response"]["usage"] is None


def test_calls_that_follow_each_other_are_told_one_after_the_other() -> None:
    calls = [called("weather", "{}"), called("weather", "{}", "call_2")]
    events = streamed([*map(chunk, deltas({"tool_calls": calls})), chunk({}, "tool_calls")])
    marks = [
        (event["type"].rsplit(".")[-1], event["output_index"])
        for event in events if event["type"].startswith("response.output_item")
    ]  # fmt: skip
    assert marks == [("added", 0), ("done", 0), ("added", 1), ("done", 1)]


def arguments_of(events: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(item["call_id"], item["arguments"]) for item in events[-1]["response"]["output"]]


def test_the_fragments_of_parallel_calls_may_come_in_turns() -> None:
    def fragment(index: int, arguments: str) -> dict[str, Any]:
        return {"index": index, "function": {"arguments": arguments}}

    begun = [{**called("weather", "", f"call_{i}"), "index": i} for i in (0, 1)]
    events = streamed([
        chunk({"tool_calls": begun}),
        chunk({"tool_calls": [fragment(0, '{"city"'), fragment(1, '{"ci')]}),
        chunk({"tool_calls": [fragment(1, 'ty": "Oslo"}'), fragment(0, ': "Bern"}')]}),
        chunk({}, "tool_calls"),
    ])  # fmt: skip
    assert arguments_of(events) == [
        ("call_0", '{"city": "Bern"}'), ("call_1", '{"city": "Oslo"}'),
    ]  # fmt: skip


@pytest.mark.parametrize("index", [None, 0])
def test_calls_without_an_index_or_with_the_same_are_told_apart(index: int | None) -> None:
    calls = [called("weather", '{"city": "Bern"}'), called("weather", "{}", "call_2")]
    numbered = [{"index": index, **call} for call in calls]
    events = streamed([chunk({"tool_calls": numbered}), chunk({}, "stop")])
    assert arguments_of(events) == [("call_1", '{"city": "Bern"}'), ("call_2", "{}")]


def test_space_behind_a_call_that_is_whole_is_nothing() -> None:
    calls = [{"index": i, **called("weather", "{}", f"call_{i}")} for i in (0, 1)]
    late = {"index": 0, "function": {"arguments": "\n"}}
    events = streamed([chunk({"tool_calls": [*calls, late]}, "stop")])
    assert arguments_of(events) == [("call_0", "{}"), ("call_1", "{}")]
    writer = ResponseWriter(request(), MODEL)
    writer.take(chunk({"tool_calls": calls}))
    with pytest.raises(ValueError, match="never began"):
        writer.take(chunk({"tool_calls": [{"index": 0, "function": {"arguments": "x"}}]}))


def test_a_call_without_an_id_gets_one() -> None:
    call = {"index": 0, "function": {"name": "weather", "arguments": {"city": "Bern"}}}
    [(id_, arguments)] = arguments_of(streamed([chunk({"tool_calls": [call]}, "stop")]))
    assert id_.startswith("call_")
    assert json.loads(arguments) == {"city": "Bern"}


def test_usage_is_told_as_openai_tells_it() -> None:
    assert whole({"content": "Hi"}, "stop")["usage"] == {
        "input_tokens": 15,
        "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 2},
        "output_tokens": 7,
        "output_tokens_details": {"reasoning_tokens": 3},
        "total_tokens": 22,
    }


def test_an_answer_repeats_its_request() -> None:
    fields = {
        "instructions": "Be brief.", "temperature": 0.5, "metadata": {"a": "b"}, "user": "ann",
        "max_output_tokens": 99, "parallel_tool_calls": False, "tool_choice": "required",
        "reasoning": {"effort": "low"}, "text": {"format": FORMAT}, "store": True,
    }  # fmt: skip
    written = whole({"content": "Hi"}, "stop", **fields)
    told = {**fields, "store": False, "reasoning": {"effort": "low", "summary": None}}
    told["text"] = {"format": FORMAT, "verbosity": "medium"}
    assert {name: written[name] for name in told} == told
    assert written["id"].startswith("resp_")
    # Every field of the SDK's that an answer of OpenAI's always has.
    always = {name for name, field in Response.model_fields.items() if field.is_required()}
    assert always <= written.keys()


def test_probabilities_and_citations_of_tokens_are_told() -> None:
    token: dict[str, Any] = {"token": "Hi", "bytes": None, "logprob": -0.1, "top_logprobs": []}
    cited = {"type": "url_citation", "url_citation": {
        "start_index": 0, "end_index": 2, "url": "https://x.example", "title": "X"}}  # fmt: skip
    events = streamed([
        chunk({"content": "Hi"}, logprobs={"content": [token]}),
        chunk({"annotations": [cited]}, "stop"),
    ])  # fmt: skip
    [part] = events[-1]["response"]["output"][0]["content"]
    assert part["logprobs"] == [{**token, "bytes": []}]
    assert part["annotations"] == [{"type": "url_citation", **cited["url_citation"]}]  # type: ignore[dict-item]


def test_a_long_stream_needs_little_memory() -> None:
    writer = ResponseWriter(request(), MODEL)
    piece = chunk({"reasoning_content": "thought " * 4})
    words = chunk({"content": "word " * 4})
    tracemalloc.start()
    for one in [piece] * 5_000 + [words] * 5_000:
        writer.take(one)
    writer.end(COUNTED)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 4 * 1024 * 1024


def test_what_gemini_sends_with_its_calls_goes_back_to_it() -> None:
    extra = {"google": {"thought_signature": "sig"}}
    calls = [{**called("weather", "{}"), "extra_content": extra}, called("weather", "{}", "call_2")]
    answered = whole({"tool_calls": calls}, "tool_calls")
    kinds = [item["type"] for item in answered["output"]]
    assert kinds == ["reasoning", "function_call", "function_call"]
    events = streamed([*map(chunk, deltas({"tool_calls": calls})), chunk({}, "tool_calls")])
    assert without_ids(events[-1]["response"]["output"]) == without_ids(answered["output"])
    results = [{**OUTPUT, "call_id": call["id"]} for call in calls]
    body = {"input": [HELLO, *answered["output"], *results]}
    for model, sent in ((MODEL, calls), ("another", [{**calls[0]}, calls[1]])):
        if model != MODEL:
            del sent[0]["extra_content"]
        assert to_chat(body, model)["messages"][1]["tool_calls"] == sent


# -- a Claude --

CLAUDE = TRANSLATIONS["responses", "messages"]
THOUGHT = {"type": "thinking", "thinking": "Hm.", "signature": "sig"}
REDACTED = {"type": "redacted_thinking", "data": "x"}


def claude_events(*blocks: dict[str, Any], stopped: str = "end_turn") -> list[str]:
    start = {"id": "msg_1", "model": "claude-opus-5", "usage": {"input_tokens": 15}}
    events: list[dict[str, Any]] = [{"type": "message_start", "message": start}]
    for index, block in enumerate(blocks):
        kind, begun, pieces = block["type"], dict(block), []
        if kind == "thinking":
            begun |= {"thinking": "", "signature": ""}
            pieces = [{"type": "thinking_delta", "thinking": block["thinking"]},
                      {"type": "signature_delta", "signature": block["signature"]}]  # fmt: skip
        elif kind == "text":
            begun["text"] = ""
            pieces = [{"type": "text_delta", "text": letter} for letter in block["text"]]
        elif kind == "tool_use":
            begun["input"] = {}
            pieces = [{"type": "input_json_delta", "partial_json": json.dumps(block["input"])}]
        events += [
            {"type": "content_block_start", "index": index, "content_block": begun},
            *({"type": "content_block_delta", "index": index, "delta": one} for one in pieces),
            {"type": "content_block_stop", "index": index},
        ]
    delta = {"type": "message_delta", "delta": {"stop_reason": stopped}}
    events += [{**delta, "usage": {"output_tokens": 7}}, {"type": "message_stop"}]
    return [json.dumps(event) for event in events]


def of_claude(asked: ModelRequest, *blocks: dict[str, Any]) -> dict[str, Any]:
    """What a Claude's stream becomes, which is what its whole answer becomes."""
    writer = CLAUDE.writer(asked, "claude-opus-5")
    written = [event for one in claude_events(*blocks) for event in writer.take(one)]
    events = [json.loads(event) for event in [*written, *writer.end(COUNTED)]]
    for event in events:
        EVENT.validate_python(event)
    usage = {"input_tokens": 15, "output_tokens": 7}
    head = {"id": "msg_1", "model": "claude-opus-5", "stop_reason": "end_turn"}
    body = {**head, "content": list(blocks), "usage": usage}
    answer = Answer("", "claude-opus-5", "anthropic", COUNTED, body=json.dumps(body))
    written_whole = json.loads(CLAUDE.answer(answer, asked, "claude-opus-5"))
    last: dict[str, Any] = events[-1]["response"]
    assert without_ids(last) == without_ids(written_whole)
    return last


def test_a_claude_gets_its_signed_thinking_back_with_the_results_of_tools() -> None:
    use = {"type": "tool_use", "id": "toolu_1", "name": "apply_patch", "input": {"input": "*\n"}}
    blocks: list[dict[str, Any]] = [THOUGHT, REDACTED, {"type": "text", "text": "So."}, use]
    answered = of_claude(request(), *blocks)
    assert [item["type"] for item in answered["output"]] == [
        "reasoning", "reasoning", "message", "custom_tool_call",
    ]  # fmt: skip
    result = {"type": "custom_tool_call_output", "call_id": "toolu_1", "output": "ok"}
    again = request(input=[HELLO, *answered["output"], result])
    body = CLAUDE.request(again, "claude-opus-5").body
    assert body["messages"] == [
        HELLO,
        {"role": "assistant", "content": blocks},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "toolu_1", "content": "ok"}]},
    ]  # fmt: skip
    # Nobody else can use it.
    [_, told, _] = to_chat(again.body, MODEL)["messages"]
    assert told.keys() == {"role", "content", "tool_calls"}


def test_a_request_for_a_claude_is_translated_twice() -> None:
    fields = {
        "instructions": "Be brief.", "max_output_tokens": 99, "reasoning": {"effort": "low"},
        "text": {"format": FORMAT}, "temperature": 1, "tools": [TOOL],
    }  # fmt: skip
    translated = CLAUDE.request(request(**fields), "claude-opus-5")
    assert translated.operation == "messages"
    assert translated.body == {
        "max_tokens": 99,
        "system": "Be brief.",
        "messages": [HELLO],
        "thinking": {"type": "adaptive"},
        "output_config": {
            "effort": "low",
            "format": {"type": "json_schema", "schema": SCHEMA | {"additionalProperties": False}},
        },
        "tools": [{"name": "weather", "description": "Tells it", "input_schema": SCHEMA}],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "parameter"),
    [
        ({"text": {"format": {"type": "json_object"}}}, "text.format"),
        ({"top_logprobs": 2}, "include"),
        ({"reasoning": {"effort": "some"}}, "reasoning.effort"),
        ({"service_tier": "flex"}, "service_tier"),
        ({"input": [message("user", {**IMAGE, "image_url": "http://x.example"})]}, "input"),
    ],
    ids=str,
)
def test_what_a_claude_cannot_do_is_named_as_the_client_wrote_it(
    fields: Any, parameter: str
) -> None:
    with pytest.raises(UnsupportedParameter) as refusal:
        CLAUDE.request(request(**fields), "claude-opus-5")
    assert refusal.value.parameter == parameter
    assert parameter in refusal.value.message
    assert list(refusal.value.details or {}) == [parameter]
