"""Chat completions told to a provider of Messages, and its answers told as chat completions."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai.lib.streaming._deltas import accumulate_delta
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from webapp.errors import UnsupportedParameter
from webapp.llm.messages import Answer, Usage
from webapp.providers.message_answers import events_of
from webapp.providers.translation.chat_over_messages.answer import ChunkWriter, to_chat_answer
from webapp.providers.translation.chat_over_messages.request import to_messages

MODEL = "claude-opus-5"
BUDGETED = "claude-haiku-4-5"
HELLO = {"role": "user", "content": "Hello"}
MARK = {"type": "ephemeral", "ttl": "1h"}
PDF = "data:application/pdf;base64,JVBERi0="
PNG = "data:image/png;base64,aGVsbG8="
NOTE = "data:text/plain;base64,aGVsbG8="
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
CLOSED = {**SCHEMA, "additionalProperties": False}
FUNCTION = {"name": "weather", "description": "Tells it", "parameters": SCHEMA}
TOOL = {"type": "function", "function": FUNCTION}
CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "weather", "arguments": '{"city": "Bern"}'},
}
USE = {"type": "tool_use", "id": "call_1", "name": "weather", "input": {"city": "Bern"}}
THOUGHT = {"type": "thinking", "thinking": "Hm.", "signature": "sig"}
HIDDEN = {"type": "redacted_thinking", "data": "xyz"}
CLAUDES_TOOL = {"name": "weather", "description": "Tells it", "input_schema": SCHEMA}
ADAPTIVE = {"type": "adaptive"}


def asked(model: str = MODEL, cap: int | None = None, **fields: Any) -> dict[str, Any]:
    return to_messages({"messages": [HELLO], **fields}, model, cap)


def said(*messages: Any) -> dict[str, Any]:
    return asked(messages=list(messages))


def text(words: str, **fields: Any) -> dict[str, Any]:
    return {"type": "text", "text": words, **fields}


@pytest.mark.parametrize(
    ("fields", "carried"),
    [
        ({"temperature": 0.5, "top_p": 0.9}, {"temperature": 0.5, "top_p": 0.9}),
        ({"top_k": 5}, {"top_k": 5}),
        ({"max_tokens": 9}, {"max_tokens": 9}),
        ({"max_tokens": 9, "max_completion_tokens": 7}, {"max_tokens": 7}),
        ({"stop": "a"}, {"stop_sequences": ["a"]}),
        ({"stop": ["a", "b"]}, {"stop_sequences": ["a", "b"]}),
        ({"user": "ann"}, {"metadata": {"user_id": "ann"}}),
        ({"user": "ann", "safety_identifier": "a1"}, {"metadata": {"user_id": "a1"}}),
        ({"service_tier": "default"}, {"service_tier": "standard_only"}),
        ({"cache_control": MARK}, {"cache_control": MARK}),
        ({"thinking": ADAPTIVE}, {"thinking": ADAPTIVE}),
        (
            {"reasoning_effort": "high"},
            {"thinking": ADAPTIVE, "output_config": {"effort": "high"}},
        ),
        (
            {"reasoning_effort": "minimal"},
            {"thinking": ADAPTIVE, "output_config": {"effort": "low"}},
        ),
        ({"reasoning_effort": "none"}, {"thinking": {"type": "disabled"}}),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {
                        "name": "w", "strict": True, "description": "D", "schema": SCHEMA,
                    },
                }
            },
            {
                "output_config": {
                    "format": {"type": "json_schema", "schema": {**CLOSED, "description": "D"}}
                }
            },
        ),
        ({"tools": [TOOL]}, {"tools": [CLAUDES_TOOL]}),
        (
            {"tools": [{**TOOL, "function": {**FUNCTION, "strict": True}, "cache_control": MARK}]},
            {"tools": [{**CLAUDES_TOOL, "strict": True, "cache_control": MARK}]},
        ),
        (
            {"tools": [TOOL], "tool_choice": "required"},
            {"tools": [CLAUDES_TOOL], "tool_choice": {"type": "any"}},
        ),
        (
            {"tools": [TOOL], "tool_choice": "none", "parallel_tool_calls": False},
            {"tools": [CLAUDES_TOOL], "tool_choice": {"type": "none"}},
        ),
        (
            {"tools": [TOOL], "parallel_tool_calls": False},
            {
                "tools": [CLAUDES_TOOL],
                "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
            },
        ),
        (
            {
                "tools": [TOOL],
                "tool_choice": {"type": "function", "function": {"name": "weather"}},
            },
            {"tools": [CLAUDES_TOOL], "tool_choice": {"type": "tool", "name": "weather"}},
        ),
        # What means the same as nothing, and what Weir itself makes use of.
        ({"temperature": 1, "top_p": 1.0, "n": 1, "store": False, "seed": None}, {}),
        ({"stream_options": {"include_usage": True}, "prompt_cache_key": "k"}, {}),
        ({"tools": [], "tool_choice": "auto", "modalities": ["text"]}, {}),
    ],
    ids=str,
)  # fmt: skip
def test_a_parameter_is_carried_over(fields: Any, carried: dict[str, Any]) -> None:
    plain = {"max_tokens": 16_384, "messages": [HELLO]}
    assert asked(**fields) == plain | carried


@pytest.mark.parametrize(
    ("message", "carried"),
    [
        ({"role": "user", "content": [text("a", cache_control=MARK)]},
         [text("a", cache_control=MARK)]),
        ({"role": "user", "content": "a", "cache_control": MARK}, [text("a", cache_control=MARK)]),
        ({"role": "user", "content": [text("a")]}, "a"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {"url": PNG}}]},
         [{"type": "image",
           "source": {"type": "base64", "media_type": "image/png", "data": "aGVsbG8="}}]),
        ({"role": "user",
          "content": [{"type": "image_url", "image_url": {"url": "https://x.example/a.png"}}]},
         [{"type": "image", "source": {"type": "url", "url": "https://x.example/a.png"}}]),
        ({"role": "user",
          "content": [{"type": "file", "file": {"file_data": PDF, "filename": "a.pdf"}}]},
         [{"type": "document", "title": "a.pdf",
           "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="}}]),
        ({"role": "user",
          "content": [{"type": "file", "file": {"file_data": NOTE}, "cache_control": MARK}]},
         [{"type": "document", "cache_control": MARK,
           "source": {"type": "text", "media_type": "text/plain", "data": "hello"}}]),
        ({"role": "assistant", "content": "", "tool_calls": [{**CALL, "index": 0}]}, [USE]),
        ({"role": "assistant", "content": "Wait.", "tool_calls": [CALL]}, [text("Wait."), USE]),
        ({"role": "assistant", "content": None, "tool_calls": [CALL], "reasoning_content": "Hm.",
          "thinking_blocks": [{"index": 0, **THOUGHT}, HIDDEN]}, [THOUGHT, HIDDEN, USE]),
        ({"role": "assistant", "content": None, "refusal": "No."}, "No."),
        ({"role": "tool", "tool_call_id": "call_1", "content": "9 C"},
         [{"type": "tool_result", "tool_use_id": "call_1", "content": "9 C"}]),
        ({"role": "tool", "tool_call_id": "call_1", "cache_control": MARK,
          "content": [text("a"), {"type": "image_url", "image_url": {"url": PNG}}]},
         [{"type": "tool_result", "tool_use_id": "call_1", "cache_control": MARK,
           "content": [
               text("a"),
               {"type": "image",
                "source": {"type": "base64", "media_type": "image/png", "data": "aGVsbG8="}}]}]),
    ],
    ids=str,
)  # fmt: skip
def test_a_message_is_carried_over(message: dict[str, Any], carried: Any) -> None:
    role = "assistant" if message["role"] == "assistant" else "user"
    assert said(message)["messages"] == [{"role": role, "content": carried}]


def test_system_prompts_come_first_with_their_marks() -> None:
    brief, kind = {"role": "system", "content": "Be brief."}, {"role": "developer", "content": "K."}
    assert said(brief, HELLO, kind)["system"] == "Be brief.\n\nK."
    marked = {"role": "system", "content": [text("Be brief.", cache_control=MARK)]}
    assert said(marked, HELLO, kind)["system"] == [
        text("Be brief.", cache_control=MARK),
        text("K."),
    ]
    assert "system" not in said({"role": "system", "content": " "}, HELLO)


def test_an_assistant_that_said_nothing_is_left_out() -> None:
    silent = {"role": "assistant", "content": ""}
    [message] = said(HELLO, silent, HELLO)["messages"]
    assert message == {"role": "user", "content": [text("Hello"), text("Hello")]}


def test_blank_texts_are_left_out_beside_others() -> None:  # as models write before a call
    calls = {"role": "assistant", "content": "\n\n", "tool_calls": [CALL]}
    parts = {"role": "user", "content": [text(" "), text("a"), text("")]}
    messages = said(HELLO, calls, parts)["messages"]
    assert [message["content"] for message in messages[1:]] == [[USE], "a"]
    assert said({"role": "user", "content": [text(" ")]})["messages"][0]["content"] == " "


def test_ids_of_other_models_calls_are_told_as_anthropic_takes_them() -> None:
    calls = {"role": "assistant", "tool_calls": [{**CALL, "id": "functions.weather:0"}]}
    result = {"role": "tool", "tool_call_id": "functions.weather:0", "content": "9 C"}
    _, use, told = said(HELLO, calls, {**result, "name": "weather"})["messages"]
    assert use["content"][0]["id"] == "functions_2e_weather_3a_0"
    assert told["content"][0]["tool_use_id"] == use["content"][0]["id"]


def test_the_results_of_parallel_tools_are_one_message() -> None:
    result = {"role": "tool", "tool_call_id": "call_1", "content": "9 C"}
    other = {"role": "tool", "tool_call_id": "call_2", "content": "noon"}
    calls = {"role": "assistant", "tool_calls": [CALL, {**CALL, "id": "call_2"}]}
    messages = said(HELLO, calls, result, other, HELLO)["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant", "user"]
    assert [block["type"] for block in messages[2]["content"]] == [
        "tool_result", "tool_result", "text",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("model", "budgeted"),
    [
        ("claude-haiku-4-5", True),
        ("claude-haiku-4-5-20251001", True),
        ("claude-opus-4-5", True),
        ("claude-sonnet-4-20250514", True),
        ("claude-opus-4-1@20250805", True),
        ("claude-3-7-sonnet-latest", True),
        ("claude-opus-4-6", False),
        ("claude-sonnet-4-6", False),
        ("claude-opus-4-8", False),
        ("claude-haiku-5-5", False),
        ("claude-sonnet-5", False),
        ("claude-fable-5-1", False),
    ],
)
def test_older_models_think_within_a_budget(model: str, budgeted: bool) -> None:
    thinking = asked(model, reasoning_effort="medium")["thinking"]
    wanted = {"type": "enabled", "budget_tokens": 4_096} if budgeted else ADAPTIVE
    assert thinking == wanted


def test_a_budget_for_thinking_is_less_than_the_limit_on_the_output() -> None:
    thinking = asked(BUDGETED, reasoning_effort="high", max_tokens=2_000)["thinking"]
    assert thinking["budget_tokens"] == 1_999
    with pytest.raises(UnsupportedParameter, match="max_tokens must be more"):
        asked(BUDGETED, reasoning_effort="low", max_tokens=1_024)


def test_thinking_does_not_begin_amid_the_use_of_tools() -> None:
    calls = {"role": "assistant", "content": "Wait.", "tool_calls": [CALL]}
    result = {"role": "tool", "tool_call_id": "call_1", "content": "9 C"}

    def thinking(model: str, *messages: Any) -> Any:
        given = asked(model, reasoning_effort="low", messages=[HELLO, *messages])
        return given.get("thinking", {}).get("type")

    assert thinking(BUDGETED, calls, result) is None
    assert thinking(BUDGETED, {**calls, "thinking_blocks": [THOUGHT]}, result) == "enabled"
    assert thinking(BUDGETED, calls, result, {"role": "assistant", "content": "9."}, HELLO) == (
        "enabled"
    )
    assert thinking(BUDGETED, {"role": "assistant", "content": "Hi"}, HELLO) == "enabled"
    assert thinking(MODEL, calls, result) == "adaptive"


def test_objects_of_a_schema_are_closed_where_it_does_not_say() -> None:
    inner = {"type": "object", "properties": {"type": {"type": "string"}}}
    schema = {
        "type": "object",
        "properties": {"properties": {"type": "array", "items": inner}},
        "$defs": {"One": {"anyOf": [inner, {"type": "object", "additionalProperties": True}]}},
        "enum": [{"type": "object", "properties": {}}],
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "w", "schema": schema}}
    found = asked(response_format=wanted)["output_config"]["format"]["schema"]
    shut = {**inner, "additionalProperties": False}
    assert found == {
        **schema,
        "additionalProperties": False,
        "properties": {"properties": {"type": "array", "items": shut}},
        "$defs": {"One": {"anyOf": [shut, {"type": "object", "additionalProperties": True}]}},
    }
    assert "additionalProperties" not in schema  # it is the client's


def test_there_always_is_a_limit_on_the_output() -> None:
    assert asked(cap=50)["max_tokens"] == 50
    assert asked(cap=50, max_tokens=9)["max_tokens"] == 9


@pytest.mark.parametrize(
    ("fields", "parameter"),
    [
        ({"n": 2}, "n"),
        ({"seed": 1}, "seed"),
        ({"logit_bias": {"1": 1}}, "logit_bias"),
        ({"service_tier": "flex"}, "service_tier"),
        ({"verbosity": "low"}, "verbosity"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"reasoning_effort": "huge"}, "reasoning_effort"),
        ({"reasoning_effort": "low", "thinking": ADAPTIVE}, "reasoning_effort"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools.0.type"),
        ({"messages": [{**HELLO, "name": "ann"}]}, "messages.0.name"),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "file", "file": {"file_id": "f"}}]}
                ]
            },
            "messages.0.content.0.file.file_id",
        ),
        (
            {"messages": [{"role": "assistant", "thinking_blocks": [{"type": "thinking"}]}]},
            "messages.0.thinking_blocks.0.thinking",
        ),
    ],
    ids=str,
)  # fmt: skip
def test_what_cannot_be_carried_over_is_named(fields: Any, parameter: str) -> None:
    with pytest.raises(UnsupportedParameter) as refusal:
        asked(**fields)
    assert refusal.value.parameter == parameter


# -- answers --

COUNTS = {
    "input_tokens": 9,
    "cache_read_input_tokens": 4,
    "cache_creation_input_tokens": 2,
    "output_tokens": 7,
    "output_tokens_details": {"thinking_tokens": 3},
    "service_tier": "standard",
}


def message(*blocks: Any, reason: str | None = "end_turn", **fields: Any) -> dict[str, Any]:
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": MODEL,
        "content": list(blocks),
        "stop_reason": reason,
        "stop_sequence": None,
        "usage": COUNTS,
        **fields,
    }


def whole(answered: dict[str, Any]) -> dict[str, Any]:
    answer = Answer("", MODEL, "claude", Usage(1, 1), body=json.dumps(answered))
    body: dict[str, Any] = json.loads(to_chat_answer(answer, MODEL))
    ChatCompletion.model_validate(body)
    return body


def streamed(events: list[str], *, usage: bool = True) -> list[dict[str, Any]]:
    writer = ChunkWriter(MODEL, usage_wanted=usage)
    written = [chunk for event in events for chunk in writer.take(event)]
    chunks = [json.loads(chunk) for chunk in [*written, *writer.end(Usage(1, 1))]]
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk)
    return chunks


def joined(chunks: list[dict[str, Any]]) -> dict[str, Any]:
    """What openai-python makes of a stream."""
    said: dict[Any, Any] = {}
    reason = usage = None
    for chunk in chunks:
        for choice in chunk["choices"]:
            said = accumulate_delta(said, choice["delta"])
            reason = choice["finish_reason"] or reason
        usage = chunk.get("usage") or usage
    for call in said.get("tool_calls") or []:
        del call["index"]
    for thought in said.get("thinking_blocks") or []:
        del thought["index"]
    return {"message": said, "finish_reason": reason, "usage": usage}


ANSWERS = [
    pytest.param([text("Hello")], "end_turn", "stop", id="text"),
    pytest.param([text("A"), text("B")], "stop_sequence", "stop", id="texts"),
    pytest.param([text("A")], "max_tokens", "length", id="cut"),
    pytest.param([text("A")], "model_context_window_exceeded", "length", id="full"),
    pytest.param([text("A")], "pause_turn", "stop", id="paused"),
    pytest.param([], "refusal", "content_filter", id="refused"),
    pytest.param([USE], "tool_use", "tool_calls", id="tool"),
    pytest.param([{**USE, "input": {}}], "tool_use", "tool_calls", id="tool-without-arguments"),
    pytest.param(
        [text("I see."), USE, {**USE, "id": "call_2"}], "tool_use", "tool_calls", id="tools"
    ),
    pytest.param([THOUGHT, text("A")], "end_turn", "stop", id="thinking"),
    pytest.param([THOUGHT, HIDDEN, THOUGHT, USE], "tool_use", "tool_calls", id="thoughts"),
    pytest.param(
        [{**THOUGHT, "thinking": ""}, text("A")], "end_turn", "stop", id="signature-alone"
    ),
]


@pytest.mark.parametrize(("blocks", "reason", "told"), ANSWERS)
def test_an_answer_is_the_same_whole_and_streamed(
    blocks: list[Any], reason: str, told: str
) -> None:
    answered = message(*blocks, reason=reason)
    body = whole(answered)
    [choice] = body["choices"]
    assert choice["finish_reason"] == told
    chunks = streamed(events_of(answered))
    found = joined(chunks)
    expected = {name: value for name, value in choice["message"].items() if value is not None}
    got = {name: value for name, value in found["message"].items() if value is not None}
    if "tool_calls" in expected and not expected.get("content"):
        got.pop("content")  # which is empty, not null, in a stream
    assert got == expected
    assert found["finish_reason"] == told
    assert found["usage"] == body["usage"]
    assert {chunk["service_tier"] for chunk in chunks} == {body["service_tier"]} == {"default"}
    assert {chunk["id"] for chunk in chunks} == {body["id"]} == {"msg_1"}


def test_thinking_is_told_as_text_and_with_its_signature() -> None:
    [choice] = whole(message(THOUGHT, HIDDEN, text("A")))["choices"]
    assert choice["message"]["reasoning_content"] == "Hm."
    assert choice["message"]["thinking_blocks"] == [THOUGHT, HIDDEN]
    # It can be sent back as it came.
    [sent] = said(choice["message"])["messages"]
    assert sent["content"] == [THOUGHT, HIDDEN, text("A")]


def test_thinking_without_a_signature_may_be_sent_back() -> None:
    for thought in ({**THOUGHT, "signature": ""}, {"type": "thinking", "thinking": "Hm."}):
        answer = {"role": "assistant", "content": "A", "thinking_blocks": [thought]}
        [message] = said(answer)["messages"]
        assert message["content"] == [{**THOUGHT, "signature": ""}, text("A")]


def test_the_words_of_a_refusal_are_told() -> None:
    details = {"type": "refusal", "category": "bio", "explanation": "Not this."}
    answered = message(reason="refusal", stop_details=details)
    assert whole(answered)["choices"][0]["message"]["refusal"] == "Not this."
    assert joined(streamed(events_of(answered)))["message"]["refusal"] == "Not this."


def test_usage_is_told_with_what_the_cache_did() -> None:
    assert whole(message(text("A")))["usage"] == {
        "prompt_tokens": 15,
        "completion_tokens": 7,
        "total_tokens": 22,
        "prompt_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 2},
        "completion_tokens_details": {"reasoning_tokens": 3},
    }
    unasked = streamed(events_of(message(text("A"))), usage=False)
    assert not any("usage" in chunk for chunk in unasked)


def test_pings_and_what_is_new_are_left_out() -> None:
    events = events_of(message(text("A")))
    odd = ['{"type": "ping"}', '{"type": "something_new", "index": 0}']
    plain = streamed(events)
    assert len(streamed([events[0], *odd, *events[1:]])) == len(plain)
