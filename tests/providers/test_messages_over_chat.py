"""Messages told to a provider of chat completions, and its answers told as Messages."""

from __future__ import annotations

import json
from typing import Any, cast

import pytest

from webapp.errors import UnsupportedParameter
from webapp.llm.messages import Answer, Usage
from webapp.providers.translation.messages_over_chat.answer import EventWriter, to_message
from webapp.providers.translation.messages_over_chat.request import (
    full_names,
    max_tokens_of,
    to_chat,
)

MODEL = "gpt-5"
HELLO = {"role": "user", "content": "Hello"}
MARK = {"type": "ephemeral"}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOL = {"name": "weather", "description": "Tells it", "input_schema": SCHEMA}
LONG = f"mcp__a_server_with_a_long_name__{'weather_' * 8}"
NAMES = full_names({"tools": [{"name": LONG}, {"name": "weather"}]})
FUNCTION = {
    "type": "function",
    "function": {"name": "weather", "description": "Tells it", "parameters": SCHEMA},
}
USE = {"type": "tool_use", "id": "call_1", "name": "weather", "input": {"city": "Bern"}}
CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "weather", "arguments": '{"city": "Bern"}'},
}
PNG = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}
THOUGHT = {"type": "thinking", "thinking": "Hm.", "signature": "sig"}


@pytest.fixture(scope="module", autouse=True)
def sdk() -> None:
    """Import anthropic's SDK, which takes a second, only in the process that runs this module."""
    import anthropic.lib.streaming  # noqa: F401


def asked(**fields: Any) -> dict[str, Any]:
    return to_chat({"max_tokens": 9, "messages": [HELLO], **fields})


def said(*messages: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = asked(messages=list(messages))["messages"]
    return found


def text(words: str, **fields: Any) -> dict[str, Any]:
    return {"type": "text", "text": words, **fields}


def schema(name: str = "output_config") -> dict[str, Any]:
    wanted = {"type": "json_schema", "schema": SCHEMA}
    return {"output_config": {"format": wanted}} if name == "output_config" else {name: wanted}


FORMAT = {
    "response_format": {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": SCHEMA},
    }
}


@pytest.mark.parametrize(
    ("fields", "carried"),
    [
        ({"temperature": 0.5, "top_p": 0.9}, {"temperature": 0.5, "top_p": 0.9}),
        ({"stop_sequences": ["a", "b"]}, {"stop": ["a", "b"]}),
        ({"metadata": {"user_id": "ann"}}, {"user": "ann"}),
        (
            {"metadata": {"user_id": "a" * 65}},
            {"user": "635361c48bb9eab14198e76ea8ab7f1a41685d6ad62aa9146d301d4f17eb0ae0"},
        ),
        ({"service_tier": "standard_only"}, {"service_tier": "default"}),
        (schema(), FORMAT),
        (schema("output_format"), FORMAT),
        ({"output_config": {"effort": "high"}}, {"reasoning_effort": "high"}),
        (
            {"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}},
            {"reasoning_effort": "low"},
        ),
        ({"thinking": {"type": "enabled", "budget_tokens": 1_024}}, {"reasoning_effort": "low"}),
        ({"thinking": {"type": "enabled", "budget_tokens": 4_000}}, {"reasoning_effort": "medium"}),
        ({"thinking": {"type": "enabled", "budget_tokens": 31_999}}, {"reasoning_effort": "high"}),
        ({"tools": [TOOL]}, {"tools": [FUNCTION]}),
        (
            {"tools": [{**TOOL, "type": "custom", "strict": True, "cache_control": MARK}]},
            {"tools": [{**FUNCTION, "function": {**FUNCTION["function"], "strict": True}}]},
        ),
        (
            {"tools": [TOOL], "tool_choice": {"type": "auto", "disable_parallel_tool_use": True}},
            {"tools": [FUNCTION], "tool_choice": "auto", "parallel_tool_calls": False},
        ),
        (
            {"tools": [TOOL], "tool_choice": {"type": "any"}},
            {"tools": [FUNCTION], "tool_choice": "required"},
        ),
        (
            {"tools": [TOOL], "tool_choice": {"type": "none"}},
            {"tools": [FUNCTION], "tool_choice": "none"},
        ),
        (
            {"tools": [TOOL], "tool_choice": {"type": "tool", "name": "weather"}},
            {
                "tools": [FUNCTION],
                "tool_choice": {"type": "function", "function": {"name": "weather"}},
            },
        ),
        # What means the same as nothing, and what has no effect on an answer's words.
        ({"temperature": 1, "tools": [], "mcp_servers": [], "speed": "standard"}, {}),
        ({"cache_control": MARK, "diagnostics": {"previous_message_id": "m"}}, {}),
        ({"thinking": {"type": "disabled"}, "service_tier": "auto"}, {}),
        ({"thinking": {"type": "adaptive"}}, {}),
        ({"context_management": {"edits": [{"type": "clear_thinking_20251015"}]}}, {}),
    ],
    ids=str,
)  # fmt: skip
def test_a_parameter_is_carried_over(fields: Any, carried: dict[str, Any]) -> None:
    assert asked(**fields) == {"messages": [HELLO]} | carried


@pytest.mark.parametrize(
    ("fields", "strict"),
    [
        ({}, False),  # an object that is open
        ({"additionalProperties": False}, False),  # a field that may be missing
        ({"additionalProperties": False, "required": ["city"]}, True),
        ({"additionalProperties": False, "required": ["city"], "allOf": [{}]}, False),
        (
            {
                "additionalProperties": False,
                "required": ["city"],
                "$defs": {"A": {"type": ["object", "null"]}},
            },
            False,
        ),
    ],
)
def test_a_schema_is_strict_where_openai_takes_it_so(fields: Any, strict: bool) -> None:
    wanted = {"type": "json_schema", "schema": {**SCHEMA, **fields}}
    told = asked(output_config={"format": wanted})["response_format"]["json_schema"]
    assert told.get("strict", False) == strict


def tool_result(**fields: Any) -> dict[str, Any]:
    return {
        "role": "user",
        "content": [{"type": "tool_result", "tool_use_id": "call_1", **fields}],
    }


def told(content: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": "call_1", "content": content}


def document(**source: Any) -> dict[str, Any]:
    content = [{"type": "document", "title": "a.pdf", "cache_control": MARK, "source": source}]
    return {"role": "user", "content": content}


@pytest.mark.parametrize(
    ("message", "carried"),
    [
        ({"role": "user", "content": [text("a", cache_control=MARK)]},
         [{"role": "user", "content": "a"}]),
        ({"role": "user", "content": [text("a"), PNG]},
         [{"role": "user", "content": [text("a"), IMAGE]}]),
        ({"role": "user",
          "content": [{"type": "image", "source": {"type": "url", "url": "https://x.example/a"}}]},
         [{"role": "user",
           "content": [{"type": "image_url", "image_url": {"url": "https://x.example/a"}}]}]),
        (document(type="base64", media_type="application/pdf", data="JVBERi0="),
         [{"role": "user", "content": [{"type": "file", "file": {
             "filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERi0="}}]}]),
        (document(type="text", media_type="text/plain", data="hello"),
         [{"role": "user", "content": "a.pdf\n\nhello"}]),
        (document(type="content", content=[text("b"), PNG]),
         [{"role": "user", "content": [text("a.pdf"), text("b"), IMAGE]}]),
        (tool_result(content="9 C", cache_control=MARK), [told("9 C")]),
        (tool_result(content=[text("9"), text("C")]), [told("9\n\nC")]),
        (tool_result(), [told("(no content)")]),
        (tool_result(content="no such city", is_error=True), [told("Error: no such city")]),
        (tool_result(content=[text("a"), PNG]), [told("a"), {"role": "user", "content": [IMAGE]}]),
        (tool_result(content=[PNG]),
         [told("(in the next message)"), {"role": "user", "content": [IMAGE]}]),
        ({"role": "user", "content": [text("and"), *tool_result(content="9 C")["content"]]},
         [told("9 C"), {"role": "user", "content": "and"}]),
        ({"role": "assistant", "content": [THOUGHT, text("Wait."), USE]},
         [{"role": "assistant", "content": "Wait.", "tool_calls": [CALL]}]),
        ({"role": "assistant", "content": [{**THOUGHT, "signature": ""}, USE]},
         [{"role": "assistant", "content": None, "tool_calls": [CALL],
           "reasoning_content": "Hm."}]),
        ({"role": "assistant", "content": [USE]},
         [{"role": "assistant", "content": None, "tool_calls": [CALL]}]),
        ({"role": "assistant", "content": [{"type": "redacted_thinking", "data": "x"}]},
         [{"role": "assistant", "content": ""}]),
        ({"role": "system", "content": [text("a"), text("b")]},
         [{"role": "system", "content": "a\n\nb"}]),
    ],
    ids=str,
)  # fmt: skip
def test_a_message_is_carried_over(message: Any, carried: list[Any]) -> None:
    assert said(message, HELLO) == [*carried, HELLO]


def test_the_system_prompt_comes_first() -> None:
    for system in ("Be brief.", [text("Be"), text("brief.", cache_control=MARK)]):
        words = "Be brief." if isinstance(system, str) else "Be\n\nbrief."
        assert asked(system=system)["messages"] == [{"role": "system", "content": words}, HELLO]
    assert asked(system=[])["messages"] == [HELLO]


def test_what_differs_in_each_request_of_claude_code_does_not_begin_the_prompt() -> None:
    attribution = text("x-anthropic-billing-header: cc_version=2.1.280.f2b; cch=e8bf2;")
    [system, _] = asked(system=[attribution, text("Be brief.")])["messages"]
    assert system == {"role": "system", "content": "Be brief."}


@pytest.mark.parametrize(
    ("fields", "parameter"),
    [
        ({"top_k": 5}, "top_k"),
        ({"mcp_servers": [{"type": "url"}]}, "mcp_servers"),
        ({"container": "c"}, "container"),
        ({"speed": "fast"}, "speed"),
        ({"x_unknown": 1}, "x_unknown"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools.0.type"),
        ({"tools": [{**TOOL, "input_examples": [{}]}]}, "tools.0.input_examples"),
        ({"context_management": {"edits": [{"type": "compact_20260112"}]}},
         "context_management.edits.0.type"),
        ({"messages": [HELLO, {"role": "assistant", "content": "{"}]}, "messages.1.role"),
        ({"messages": [{"role": "king", "content": "x"}]}, "messages.0.role"),
        (
            {"messages": [document(type="file", file_id="f")]},
            "messages.0.content.0.source.type",
        ),
        (
            {"messages": [document(type="url", url="https://x.example/a.pdf")]},
            "messages.0.content.0.source.type",
        ),
        (
            {"messages": [{"role": "assistant", "content": [{"type": "server_tool_use"}]}, HELLO]},
            "messages.0.content.0.type",
        ),
    ],
    ids=str,
)  # fmt: skip
def test_what_cannot_be_carried_over_is_named(fields: Any, parameter: str) -> None:
    with pytest.raises(UnsupportedParameter) as refusal:
        asked(**fields)
    assert refusal.value.parameter == parameter


def test_the_limit_on_the_output_is_required() -> None:
    assert max_tokens_of({"max_tokens": 9}) == 9
    for value in (None, 0, "9", True):
        with pytest.raises(UnsupportedParameter):
            max_tokens_of({"max_tokens": value})


# -- answers --

COUNTS = {
    "prompt_tokens": 15,
    "completion_tokens": 7,
    "total_tokens": 22,
    "prompt_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 2},
    "completion_tokens_details": {"reasoning_tokens": 3},
}
COUNTED = Usage(15, 7)


def whole(answered: dict[str, Any], reason: str | None, **fields: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", **answered}, "finish_reason": reason}
    body = {
        "id": "chatcmpl-1", "object": "chat.completion", "model": MODEL, "choices": [choice],
        "usage": COUNTS, "service_tier": "default", **fields,
    }  # fmt: skip
    from anthropic.types import Message

    answer = Answer("", MODEL, "openai", COUNTED, body=json.dumps(body))
    written: dict[str, Any] = json.loads(to_message(answer, MODEL, NAMES))
    Message.model_validate(written)
    return written


def chunk(delta: Any, reason: str | None = None, **fields: Any) -> str:
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    body = {"id": "chatcmpl-1", "model": MODEL, "choices": [choice], "service_tier": "default"}
    return json.dumps(body | fields)


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
        name = call["function"]["name"]
        begun = {"name": name, "arguments": ""}
        found.append({"tool_calls": [{**call, "index": index, "function": begun}]})
        for letter in call["function"]["arguments"]:
            found.append({"tool_calls": [{"index": index, "function": {"arguments": letter}}]})
    return found


def streamed(chunks: list[str]) -> list[dict[str, Any]]:
    writer = EventWriter(MODEL, lambda: 9, NAMES)
    written = [event for one in chunks for event in writer.take(one)]
    return [json.loads(event) for event in [*written, *writer.end(COUNTED)]]


def joined(events: list[dict[str, Any]]) -> dict[str, Any]:
    """What anthropic's SDK makes of a stream."""
    from anthropic.lib.streaming._messages import accumulate_event

    snapshot: Any = None
    buffers: dict[int, bytes] = {}
    for event in events:
        snapshot = accumulate_event(
            event=cast(Any, event), current_snapshot=snapshot, json_bufs=buffers
        )
    found: dict[str, Any] = snapshot.to_dict()
    return found


ANSWERS = [
    pytest.param({"content": "Hi"}, "stop", "end_turn", id="text"),
    pytest.param({"content": "Hi"}, "length", "max_tokens", id="cut"),
    pytest.param({"content": "Hi"}, "content_filter", "refusal", id="filtered"),
    pytest.param({"content": None, "refusal": "No."}, "stop", "refusal", id="refused"),
    pytest.param({"content": None, "tool_calls": [CALL]}, "tool_calls", "tool_use", id="tool"),
    pytest.param(
        {"content": "So.", "tool_calls": [CALL, {**CALL, "id": "call_2"}]}, "stop", "tool_use",
        id="tools",
    ),
    pytest.param(
        {"content": "Hi", "reasoning_content": "Hm."}, "stop", "end_turn", id="reasoning"
    ),
    pytest.param(
        {"content": "Hi", "reasoning_content": "Hm.", "thinking_blocks": [THOUGHT]},
        "stop", "end_turn", id="thinking",
    ),
    pytest.param(
        {"content": "Hi", "thinking_blocks": [THOUGHT, {"type": "redacted_thinking", "data": "x"}]},
        "stop", "end_turn", id="thoughts",
    ),
    pytest.param({"content": ""}, "stop", "end_turn", id="nothing"),
]  # fmt: skip


@pytest.mark.parametrize(("answered", "reason", "stopped"), ANSWERS)
def test_an_answer_is_the_same_whole_and_streamed(
    answered: dict[str, Any], reason: str, stopped: str
) -> None:
    written = whole(answered, reason)
    assert written["stop_reason"] == stopped
    chunks = [*map(chunk, deltas(answered)), chunk({}, reason)]
    chunks.append(json.dumps({"choices": [], "usage": COUNTS}))
    events = streamed(chunks)
    found = joined(events)
    for block in found["content"]:
        block.pop("parsed_output", None)
    assert found == written | {"stop_details": None}
    assert [event["type"] for event in events[-2:]] == ["message_delta", "message_stop"]


def test_a_stream_begins_with_an_estimate_of_its_input_and_ends_with_the_truth() -> None:
    counted = json.dumps({"choices": [], "usage": COUNTS})
    begun, *_, last, _ = streamed([chunk({"content": "Hi"}), chunk({}, "stop"), counted])
    assert begun["message"]["usage"]["input_tokens"] == 9
    told = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
    assert sum(last["usage"][name] for name in told) == COUNTS["prompt_tokens"]


def test_blocks_are_opened_and_closed_one_after_the_other() -> None:
    answered = {"content": "So.", "reasoning_content": "Hm.", "tool_calls": [CALL]}
    events = streamed([*map(chunk, deltas(answered)), chunk({}, "tool_calls")])
    marks = [
        (event["type"].removeprefix("content_block_"), event["index"])
        for event in events if event["type"] in {"content_block_start", "content_block_stop"}
    ]  # fmt: skip
    assert marks == [(kind, index) for index in range(3) for kind in ("start", "stop")]


def test_the_fragments_of_parallel_calls_may_come_in_turns() -> None:
    def fragment(index: int, arguments: str, **named: Any) -> dict[str, Any]:
        return {"index": index, **named, "function": {"arguments": arguments}}

    first, second = ({**CALL, "index": i, "id": f"call_{i}"} for i in (0, 1))
    for call in (first, second):
        call["function"] = {"name": "weather", "arguments": ""}
    turns = [
        chunk({"tool_calls": [first, second]}),
        chunk({"tool_calls": [fragment(0, '{"city"'), fragment(1, '{"ci')]}),
        chunk({"tool_calls": [fragment(1, 'ty": "Oslo"}'), fragment(0, ': "Bern"}')]}),
        chunk({"content": "So."}, "tool_calls"),
    ]
    found = joined(streamed(turns))
    assert [block.get("input") for block in found["content"]] == [
        {"city": "Bern"}, {"city": "Oslo"}, None,
    ]  # fmt: skip


def test_names_of_tools_are_shortened_for_openai_and_told_in_full() -> None:
    sent = asked(
        tools=[{**TOOL, "name": LONG}, TOOL],
        tool_choice={"type": "tool", "name": LONG},
        messages=[HELLO, {"role": "assistant", "content": [{**USE, "name": LONG}]}, HELLO],
    )
    [short, kept] = [tool["function"]["name"] for tool in sent["tools"]]
    assert len(short) == 64
    assert kept == "weather"
    assert sent["tool_choice"]["function"]["name"] == short
    assert sent["messages"][1]["tool_calls"][0]["function"]["name"] == short
    call = {**CALL, "function": {**CALL["function"], "name": short}}
    [block] = whole({"tool_calls": [call]}, "tool_calls")["content"]
    assert block["name"] == LONG
    parts = [*map(chunk, deltas({"tool_calls": [call]})), chunk({}, "tool_calls")]
    assert joined(streamed(parts))["content"][0]["name"] == LONG


def test_calls_with_one_index_are_told_apart_by_their_ids() -> None:
    def fragment(arguments: str, **fields: Any) -> dict[str, Any]:
        name = {"name": "weather"} if fields else {}
        return {"index": 0, **fields, "function": {"arguments": arguments, **name}}

    parts = [
        fragment('{"city": ', id="a"),
        fragment('"Bern"}', id="a"),  # a name may come with each fragment
        fragment('{"city": ', id="b"),
        fragment('"Oslo"}'),
    ]
    found = joined(streamed([chunk({"tool_calls": [one]}) for one in parts] + [chunk({}, "stop")]))
    assert [(block["id"], block["input"]) for block in found["content"]] == [
        ("a", {"city": "Bern"}), ("b", {"city": "Oslo"}),
    ]  # fmt: skip


def test_blanks_amid_a_call_do_not_end_it() -> None:
    begun = {**CALL, "index": 0, "function": {"name": "weather", "arguments": '{"city": '}}
    rest = {"index": 0, "function": {"arguments": '"Bern"}'}}
    parts = [{"tool_calls": [begun]}, {"content": "\n"}, {"tool_calls": [rest]}, {"content": "So"}]
    found = joined(streamed([*map(chunk, parts), chunk({}, "tool_calls")]))
    assert [block.get("input", block.get("text")) for block in found["content"]] == [
        {"city": "Bern"}, "So",
    ]  # fmt: skip


def test_usage_is_told_as_anthropic_tells_it() -> None:
    assert whole({"content": "Hi"}, "stop")["usage"] == {
        "input_tokens": 9,
        "cache_creation_input_tokens": 2,
        "cache_read_input_tokens": 4,
        "output_tokens": 7,
        "output_tokens_details": {"thinking_tokens": 3},
        "service_tier": "standard",
    }
    untold = whole({"content": "Hi"}, "stop", usage=None)["usage"]
    assert (untold["input_tokens"], untold["output_tokens"]) == (15, 7)
    reasoned = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 40}
    assert whole({"content": "Hi"}, "stop", usage=reasoned)["usage"]["output_tokens"] == 35


def test_arguments_that_are_no_object_are_shown_to_the_client() -> None:
    function = {"name": "weather", "arguments": "Bern"}
    [block] = whole({"tool_calls": [{**CALL, "function": function}]}, "tool_calls")["content"]
    assert block["input"] == {"invalid_arguments": "Bern"}


def test_calls_without_an_index_or_an_id_are_told_apart() -> None:  # as Gemini's server sends them
    calls = [
        {"function": {"name": "weather", "arguments": '{"city": "Bern"}'}, "type": "function"},
        {"function": {"name": "time", "arguments": "{}"}, "type": "function"},
    ]
    found = joined(streamed([chunk({"tool_calls": calls}), chunk({}, "stop")]))
    assert [(block["name"], block["input"]) for block in found["content"]] == [
        ("weather", {"city": "Bern"}), ("time", {}),
    ]  # fmt: skip
    assert len({block["id"] for block in found["content"]}) == 2
    assert found["stop_reason"] == "tool_use"
