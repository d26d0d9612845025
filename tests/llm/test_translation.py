"""OpenAI's chat completions told to LangChain, and its answers told as OpenAI's."""

from __future__ import annotations

import json
from typing import Any

import pytest
from langchain_core.exceptions import (
    ContextOverflowError,
    ModelAuthenticationError,
    ModelConnectionError,
    ModelNotFoundError,
    ModelRateLimitError,
    ModelTimeoutError,
)
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, convert_to_messages
from langchain_core.messages.tool import tool_call_chunk
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from webapp.base_url import BaseURL
from webapp.errors import (
    ModelNotFound,
    ProviderBusy,
    ProviderFailed,
    ProviderRefusedRequest,
    ProviderRefusedWeir,
    ProviderTimedOut,
    UnsupportedParameter,
)
from webapp.llm.messages import ModelRequest
from webapp.providers.chat_answer import write_answer, write_chunks
from webapp.providers.chat_request import ParsedChatRequest, read_request
from webapp.providers.langchain import LangChainProvider, check_installed

HELLO = {"role": "user", "content": "Hello"}
WEATHER = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {}}}},
}
CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "weather", "arguments": '{"city": "Bern"}'},
}
IMAGE = "data:image/png;base64,aGVsbG8="
USAGE = {"input_tokens": 18, "output_tokens": 7, "total_tokens": 25}


def asked(**fields: Any) -> ParsedChatRequest:
    return read_request({"messages": [HELLO], **fields})


def said(*messages: Any) -> list[dict[str, Any]]:
    return asked(messages=list(messages)).messages


def refused(**fields: Any) -> str:
    with pytest.raises(UnsupportedParameter) as refusal:
        asked(**fields)
    assert refusal.value.parameter in str(refusal.value)
    return refusal.value.parameter


def refused_message(*messages: Any) -> str:
    return refused(messages=list(messages))


def user(*parts: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(parts)}


def image(url: Any, **fields: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, **fields}}


def calling(**fields: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": None, "tool_calls": [{**CALL, **fields}]}


# What goes out


def test_all_that_the_system_says_comes_first_as_one() -> None:
    head, *others = said(
        {"role": "system", "content": "Be brief."},
        HELLO,
        {"role": "developer", "content": [{"type": "text", "text": "Be kind."}]},
    )
    assert head == {"role": "system", "content": "Be brief.\n\nBe kind."}
    assert others == [HELLO]


def test_an_empty_system_message_is_left_out() -> None:
    assert said({"role": "system", "content": ""}, HELLO) == [HELLO]


def test_a_blank_system_message_is_left_out() -> None:
    assert said({"role": "system", "content": " \n"}, HELLO) == [HELLO]


def test_the_first_field_that_cannot_be_carried_over_is_named() -> None:  # c28
    named = HELLO | {"name": "alex"}
    assert refused(modalities=["audio"], verbosity="low") == "modalities"
    assert refused(messages=[named], modalities=["audio"]) == "messages.0.name"


def test_a_history_keeps_its_order() -> None:
    history = [HELLO, {"role": "assistant", "content": "Hi"}, {"role": "user", "content": "Bye"}]
    assert said(*history) == history


def test_texts_and_images_are_passed_on() -> None:
    parts = [{"type": "text", "text": "Look"}, image(IMAGE), image("https://x.org/a.png")]
    assert said(user(*parts)) == [user(*parts)]


def test_an_image_may_name_the_detail_that_is_usual() -> None:
    assert said(user(image(IMAGE, detail="auto"))) == [user(image(IMAGE))]
    assert (
        refused_message(user(image(IMAGE, detail="low"))) == "messages.0.content.0.image_url.detail"
    )


@pytest.mark.parametrize(
    "url",
    [
        "http://x.org/a.png",
        "file:///etc/passwd",
        "data:image/png;base64,***",
        "data:image/png;base64,",
        "data:text/plain;base64,aGVsbG8=",
        "data:image/png,hello",
        "",
        7,
        None,
    ],
)
def test_an_image_that_is_none_is_named(url: Any) -> None:
    assert refused_message(user(image(url))) == "messages.0.content.0.image_url.url"


def test_tool_calls_and_their_results_become_langchains() -> None:
    result = {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "8"}]}
    _, called, answered = convert_to_messages(said(HELLO, calling(), result))
    assert isinstance(called, AIMessage)
    assert called.tool_calls == [
        {"name": "weather", "args": {"city": "Bern"}, "id": "call_1", "type": "tool_call"}
    ]
    assert (answered.type, answered.content) == ("tool", "8")


def test_a_call_without_arguments_has_an_empty_object_of_them() -> None:
    (message,) = said(calling(function={"name": "now", "arguments": ""}))
    assert message["tool_calls"][0]["function"]["arguments"] == "{}"


def test_an_answer_may_be_sent_back_as_it_came() -> None:
    echoed = {
        "role": "assistant",
        "content": "Hi",
        "refusal": None,
        "audio": None,
        "function_call": None,
        "annotations": [],
        "tool_calls": None,
        "reasoning_content": "A greeting.",
    }
    assert said(echoed, HELLO) == [{"role": "assistant", "content": "Hi"}, HELLO]


def test_the_index_of_a_call_may_be_sent_back() -> None:
    assert said(HELLO, calling(index=0)) == [HELLO, calling()]
    assert refused_message(HELLO, calling(index=1)) == "messages.1.tool_calls.0.index"


def test_a_tool_may_repeat_the_name_of_its_function() -> None:  # c37
    result = {"role": "tool", "tool_call_id": "call_1", "content": "8"}
    assert said(HELLO, calling(), result | {"name": "weather"}) == [HELLO, calling(), result]
    assert said(HELLO, calling(), result | {"name": None}) == [HELLO, calling(), result]
    for wrong in ("get_weather", "", 7):
        assert refused_message(HELLO, calling(), result | {"name": wrong}) == "messages.2.name"
    unknown = result | {"name": "weather", "tool_call_id": "call_2"}
    assert refused_message(HELLO, calling(), unknown) == "messages.2.name"


@pytest.mark.parametrize(
    ("message", "parameter"),
    [
        ("Hello", "messages.0"),
        ({"content": "Hello"}, "messages.0.role"),
        ({"role": "function", "content": "8"}, "messages.0.role"),
        ({"role": ["user"], "content": "Hello"}, "messages.0.role"),
        ({"role": "user"}, "messages.0.content"),
        ({"role": "user", "content": 7}, "messages.0.content"),
        ({"role": "user", "content": []}, "messages.0.content"),
        ({"role": "user", "content": ["Hello"]}, "messages.0.content.0"),
        ({"role": "user", "content": "Hello", "name": "Ann"}, "messages.0.name"),
        ({"role": "assistant", "content": None}, "messages.0.content"),
        ({"role": "assistant", "content": "", "refusal": "No."}, "messages.0.refusal"),
        ({"role": "assistant", "content": "", "audio": {"id": "a"}}, "messages.0.audio"),
        ({"role": "tool", "content": "8"}, "messages.0.tool_call_id"),
        ({"role": "tool", "content": "8", "tool_call_id": ""}, "messages.0.tool_call_id"),
        ({"role": "tool", "tool_call_id": "call_1"}, "messages.0.content"),
    ],
)
def test_a_message_that_is_not_well_formed_is_named(message: Any, parameter: str) -> None:
    assert refused_message(message) == parameter


@pytest.mark.parametrize("messages", [None, [], {}, "Hello"])
def test_there_have_to_be_messages(messages: Any) -> None:
    assert refused(messages=messages) == "messages"


@pytest.mark.parametrize("kind", ["input_audio", "file", "refusal", None])
def test_other_kinds_of_content_are_named(kind: Any) -> None:
    message = user({"type": "text", "text": "Look"}, {"type": kind, "text": "…"})
    assert refused_message(HELLO, message) == "messages.1.content.1.type"


def test_a_part_that_says_more_than_its_text_is_named() -> None:
    part = {"type": "text", "text": "Look", "cache_control": {"type": "ephemeral"}}
    assert refused_message(user(part)) == "messages.0.content.0.cache_control"


@pytest.mark.parametrize("role", ["system", "assistant", "tool"])
def test_only_users_show_images(role: str) -> None:
    message = {"role": role, "content": [image(IMAGE)]}
    if role == "tool":
        message["tool_call_id"] = "call_1"
    assert refused_message(message) == "messages.0.content.0.type"


@pytest.mark.parametrize(
    ("fields", "parameter"),
    [
        ({"id": None}, "id"),
        ({"type": "custom"}, "type"),
        ({"function": None}, "function"),
        ({"function": {"arguments": "{}"}}, "function.name"),
        ({"function": {"name": "weather"}}, "function.arguments"),
        ({"function": {"name": "weather", "arguments": "{"}}, "function.arguments"),
        ({"function": {"name": "weather", "arguments": "[]"}}, "function.arguments"),
        ({"function": {"name": "weather", "arguments": "[" * 100_000}}, "function.arguments"),
        ({"function": {"name": "weather", "arguments": {}}}, "function.arguments"),
    ],
)
def test_a_tool_call_that_is_not_well_formed_is_named(fields: Any, parameter: str) -> None:
    assert refused_message(HELLO, calling(**fields)) == f"messages.1.tool_calls.0.{parameter}"


def test_tools_are_passed_on_without_what_only_openai_knows() -> None:
    strict = {"type": "function", "function": {**WEATHER["function"], "strict": True}}
    assert asked(tools=[strict]).tools == [WEATHER]


def test_a_tool_may_have_no_parameters() -> None:
    (tool,) = asked(tools=[{"type": "function", "function": {"name": "now"}}]).tools
    assert tool["function"]["parameters"] == {"type": "object", "properties": {}}


def test_the_parameters_of_a_tool_are_an_object_where_it_does_not_say_so() -> None:
    named = {"name": "now", "parameters": {"properties": {"zone": {}}}}
    (tool,) = asked(tools=[{"type": "function", "function": named}]).tools
    assert tool["function"]["parameters"] == {"type": "object", "properties": {"zone": {}}}


@pytest.mark.parametrize(
    ("tool", "parameter"),
    [
        ("weather", "tools.0"),
        ({"type": "custom", "custom": {"name": "x"}}, "tools.0.type"),
        ({"type": "web_search"}, "tools.0.type"),
        ({"type": "function"}, "tools.0.function"),
        ({"type": "function", "function": {"name": ""}}, "tools.0.function.name"),
        (
            {"type": "function", "function": {"name": "x", "parameters": "{}"}},
            "tools.0.function.parameters",
        ),
        (
            {"type": "function", "function": {"name": "x", "description": 7}},
            "tools.0.function.description",
        ),
        (
            {"type": "function", "function": {"name": "x", "cached": True}},
            "tools.0.function.cached",
        ),
    ],
)
def test_a_tool_that_is_not_well_formed_is_named(tool: Any, parameter: str) -> None:
    assert refused(tools=[tool]) == parameter


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (None, None),
        ("auto", "auto"),
        ("none", "none"),
        ("required", "any"),
        ({"type": "function", "function": {"name": "weather"}}, "weather"),
    ],
)
def test_a_choice_of_tools_is_told_in_langchains_words(choice: Any, expected: str | None) -> None:
    assert asked(tools=[WEATHER], tool_choice=choice).tool_choice == expected


@pytest.mark.parametrize(
    ("choice", "parameter"),
    [
        ("always", "tool_choice"),
        (7, "tool_choice"),
        ({"type": "allowed_tools"}, "tool_choice.type"),
        ({"type": "function", "function": {}}, "tool_choice.function.name"),
    ],
)
def test_a_choice_that_does_not_exist_is_named(choice: Any, parameter: str) -> None:
    assert refused(tools=[WEATHER], tool_choice=choice) == parameter


def test_a_choice_needs_tools_to_choose_from() -> None:
    assert refused(tool_choice="required") == "tool_choice"
    assert asked(tool_choice="none").tools == []


def test_parallel_calls_are_allowed_unless_they_are_not() -> None:
    assert asked().parallel_tool_calls
    assert asked(parallel_tool_calls=True).parallel_tool_calls
    assert not asked(parallel_tool_calls=False).parallel_tool_calls


def test_what_steers_the_model_is_read() -> None:
    read = asked(temperature=1.7, top_p=0.5, max_tokens=10, stop="END", user="ann")
    assert (read.temperature, read.top_p, read.max_tokens) == (1.7, 0.5, 10)
    assert (read.stop, read.user) == (["END"], "ann")


def test_the_newer_name_of_the_longest_answer_wins() -> None:
    assert asked(max_tokens=10, max_completion_tokens=20).max_tokens == 20
    assert asked(max_tokens=10, max_completion_tokens=None).max_tokens == 10


def test_several_stops_are_a_list() -> None:
    assert asked(stop=["a", "b"]).stop == ["a", "b"]
    assert asked(stop=[]).stop is None


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("temperature", "hot"),
        ("temperature", True),
        ("top_p", [1]),
        ("max_tokens", 1.5),
        ("max_completion_tokens", "10"),
        ("stop", 7),
        ("user", 7),
        ("tools", "weather"),
        ("parallel_tool_calls", "no"),
        ("stream_options", True),
    ],
)
def test_a_value_of_the_wrong_type_is_named(parameter: str, value: Any) -> None:
    assert refused(**{parameter: value}) == parameter


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("n", 1),
        ("logprobs", False),
        ("presence_penalty", 0),
        ("presence_penalty", 0.0),
        ("frequency_penalty", 0),
        ("response_format", {"type": "text"}),
        ("store", False),
        ("logit_bias", {}),
        ("service_tier", "auto"),
        ("seed", None),
        ("whatever", None),
        ("stream_options", {"include_usage": True}),
        ("stream_options", {"include_usage": True, "include_obfuscation": False}),
        ("stream_options", None),
        ("tools", []),
        ("tools", None),
    ],
)
def test_what_means_nothing_is_left_out(parameter: str, value: Any) -> None:
    assert asked(**{parameter: value}) == asked()


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("n", 2),
        ("logprobs", True),
        ("top_logprobs", 3),
        ("presence_penalty", 0.5),
        ("frequency_penalty", -1),
        ("logit_bias", {"50256": -100}),
        ("seed", 0),
        ("response_format", {"type": "json_object"}),
        ("response_format", {"type": "json_schema", "json_schema": {}}),
        ("audio", {"voice": "alloy"}),
        ("modalities", ["text", "audio"]),
        ("store", True),
        ("service_tier", "flex"),
        ("reasoning_effort", "high"),
        ("functions", []),
        ("whatever", 1),
    ],
)
def test_what_cannot_be_carried_over_is_named(parameter: str, value: Any) -> None:
    assert refused(**{parameter: value}) == parameter


def test_other_options_of_a_stream_are_named() -> None:
    assert refused(stream_options={"every": 2}) == "stream_options.every"


# What comes back


def answer(message: AIMessage) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(write_answer(message, "a-model"))
    ChatCompletion.model_validate(body)
    return body


def spoken(content: Any = "Hello", reason: Any = "end_turn", **fields: Any) -> AIMessage:
    metadata = {"stop_reason": reason, "model_name": "a-model-of-may"}
    return AIMessage(content, response_metadata=metadata, usage_metadata=USAGE, **fields)


def test_an_answer_is_a_chat_completion() -> None:
    body = answer(spoken())
    assert body["id"].startswith("chatcmpl-")
    assert body["object"] == "chat.completion"
    assert isinstance(body["created"], int)
    assert body["model"] == "a-model-of-may"
    assert body["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hello", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert body["usage"] == {"prompt_tokens": 18, "completion_tokens": 7, "total_tokens": 25}


def test_the_model_has_the_name_that_was_asked_for_where_none_is_told() -> None:
    assert answer(AIMessage("Hello"))["model"] == "a-model"


def test_tool_calls_without_text_have_no_content() -> None:
    calls = [{"id": "toolu_1", "name": "weather", "args": {"city": "Zürich"}}]
    choice = answer(spoken([], "tool_use", tool_calls=calls))["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    assert choice["message"]["tool_calls"] == [
        {
            "id": "toolu_1",
            "type": "function",
            "function": {"name": "weather", "arguments": '{"city": "Zürich"}'},
        }
    ]


def test_arguments_that_are_no_json_are_passed_on() -> None:
    calls = [{"id": "toolu_1", "name": "weather", "args": '{"ci', "error": None}]
    message = answer(spoken("", "tool_use", invalid_tool_calls=calls))["choices"][0]["message"]
    assert message["tool_calls"][0]["function"]["arguments"] == '{"ci'


def test_thoughts_stand_beside_the_text() -> None:
    blocks = [
        {"type": "thinking", "thinking": "A greeting.", "signature": "x"},
        {"type": "redacted_thinking", "data": "x"},
        {"type": "text", "text": "Hel"},
        {"type": "text", "text": "lo"},
    ]
    message = answer(spoken(blocks))["choices"][0]["message"]
    assert message["reasoning_content"] == "A greeting."
    assert message["content"] == "Hello"


@pytest.mark.parametrize(
    ("said_by_provider", "expected"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("stop", "stop"),
        ("STOP", "stop"),
        ("pause_turn", "stop"),
        ("something new", "stop"),
        (None, "stop"),
        ("max_tokens", "length"),
        ("MAX_TOKENS", "length"),
        ("length", "length"),
        ("model_context_window_exceeded", "length"),
        ("tool_use", "tool_calls"),
        ("tool_calls", "tool_calls"),
        ("refusal", "content_filter"),
        ("SAFETY", "content_filter"),
    ],
)
def test_the_reason_for_the_end_is_told_in_openais_words(
    said_by_provider: Any, expected: str
) -> None:
    assert answer(spoken(reason=said_by_provider))["choices"][0]["finish_reason"] == expected


def test_tokens_from_a_cache_are_part_of_the_prompt() -> None:
    usage = {**USAGE, "input_token_details": {"cache_read": 5, "cache_creation": 3}}
    written = answer(AIMessage("Hello", usage_metadata=usage))["usage"]
    assert written["prompt_tokens"] == 18
    assert written["prompt_tokens_details"] == {"cached_tokens": 5, "cache_write_tokens": 3}


def test_tokens_of_thoughts_are_part_of_the_completion() -> None:
    usage = {**USAGE, "output_token_details": {"reasoning": 4}}
    written = answer(AIMessage("Hello", usage_metadata=usage))["usage"]
    assert written["completion_tokens_details"] == {"reasoning_tokens": 4}


def test_no_usage_is_told_where_none_was_counted() -> None:
    assert "usage" not in answer(AIMessage("Hello"))


# What comes back as a stream


def part(content: Any = "", **fields: Any) -> AIMessageChunk:
    return AIMessageChunk(content, **fields)


def piece(index: int | None, id_: str | None, name: str | None, args: str) -> AIMessageChunk:
    return part([], tool_call_chunks=[tool_call_chunk(index=index, id=id_, name=name, args=args)])


END = part(
    response_metadata={"stop_reason": "end_turn"},
    usage_metadata={**USAGE, "input_token_details": {"cache_read": 5}},
)


def chunks(*parts: AIMessage) -> list[dict[str, Any]]:
    bodies = [json.loads(text) for text in write_chunks(parts, "a-model", lambda: 11)]
    for body in bodies:
        ChatCompletionChunk.model_validate(body)
    return bodies


def deltas(*parts: AIMessage) -> list[dict[str, Any]]:
    """All that lies between who speaks and why it ended."""
    found = [body["choices"][0]["delta"] for body in chunks(*parts, END) if body["choices"]]
    assert found[0]["role"] == "assistant"
    assert found[-1] == {}
    return found[1:-1]


def call_deltas(*parts: AIMessage) -> list[dict[str, Any]]:
    return [call for delta in deltas(*parts) for call in delta["tool_calls"]]


def test_a_stream_is_who_speaks_what_why_it_ends_and_what_it_took() -> None:
    named = part(response_metadata={"model_name": "a-model-of-may"})
    first, hel, lo, end, usage = chunks(named, part("Hel"), part([text_block("lo")]), END)
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
    assert hel["choices"][0]["delta"] == {"content": "Hel"}
    assert lo["choices"][0]["delta"] == {"content": "lo"}
    assert end["choices"][0]["delta"] == {}
    assert end["choices"][0]["finish_reason"] == "stop"
    assert usage["choices"] == []
    assert usage["usage"] == {
        "prompt_tokens": 18,
        "completion_tokens": 7,
        "total_tokens": 25,
        "prompt_tokens_details": {"cached_tokens": 5},
    }
    heads = {(b["id"], b["object"], b["created"], b["model"]) for b in (first, hel, end, usage)}
    assert len(heads) == 1
    assert first["model"] == "a-model-of-may"


def text_block(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text, "index": 0}


def test_thoughts_are_streamed_beside_the_text() -> None:
    thought = {"type": "thinking", "thinking": "Hm.", "index": 0}
    signed = {"type": "thinking", "thinking": "", "signature": "x", "index": 0}
    assert deltas(part([thought]), part([signed]), part("Hello")) == [
        {"reasoning_content": "Hm."},
        {"content": "Hello"},
    ]


def test_tool_calls_are_counted_from_zero_and_begin_with_their_names() -> None:
    assert call_deltas(
        piece(1, "toolu_1", "weather", ""),
        piece(1, None, None, ""),
        piece(1, None, None, '{"city": '),
        piece(1, None, None, '"Bern"}'),
        piece(2, "toolu_2", "time", '{"zone": "CET"}'),
    ) == [
        begun(0, "toolu_1", "weather"),
        {"index": 0, "function": {"arguments": '{"city": '}},
        {"index": 0, "function": {"arguments": '"Bern"}'}},
        begun(1, "toolu_2", "time"),
        {"index": 1, "function": {"arguments": '{"zone": "CET"}'}},
    ]


def begun(index: int, id_: str, name: str) -> dict[str, Any]:
    function = {"name": name, "arguments": ""}
    return {"index": index, "id": id_, "type": "function", "function": function}


def test_a_streamed_call_without_arguments_ends_as_an_empty_object() -> None:
    assert call_deltas(piece(0, "toolu_1", "now", ""), piece(0, None, None, "")) == [
        begun(0, "toolu_1", "now"),
        {"index": 0, "function": {"arguments": "{}"}},
    ]


def test_calls_that_share_an_index_are_told_apart_by_their_ids() -> None:
    streamed = call_deltas(piece(0, "a", "now", "{}"), piece(0, "b", "now", "{}"))
    assert [call["index"] for call in streamed] == [0, 0, 1, 1]


def test_calls_without_an_index_are_counted_too() -> None:
    streamed = call_deltas(
        piece(None, "a", "now", ""), piece(None, None, None, "{}"), piece(None, "b", "now", "{}")
    )
    assert [call["index"] for call in streamed] == [0, 0, 1, 1]


def test_a_piece_without_a_name_belongs_to_a_call_whatever_its_id() -> None:
    streamed = call_deltas(piece(0, "a", "now", ""), piece(0, "b", "", "{}"))
    assert [call["index"] for call in streamed] == [0, 0]


def test_a_call_without_an_id_gets_one() -> None:
    begin, _ = call_deltas(piece(0, None, "now", "{}"))
    assert begin["id"].startswith("call_")


def test_an_answer_in_one_piece_is_streamed_too() -> None:
    calls = [{"id": "toolu_1", "name": "weather", "args": {}}]
    _, text, begin, arguments, end, usage = chunks(spoken("Hello", "tool_use", tool_calls=calls))
    assert text["choices"][0]["delta"] == {"content": "Hello"}
    assert begin["choices"][0]["delta"]["tool_calls"] == [begun(0, "toolu_1", "weather")]
    assert arguments["choices"][0]["delta"]["tool_calls"][0]["function"] == {"arguments": "{}"}
    assert end["choices"][0]["finish_reason"] == "tool_calls"
    assert usage["usage"]["total_tokens"] == 25


def test_a_stream_with_calls_ends_because_of_them() -> None:
    bodies = chunks(piece(0, "a", "now", "{}"), END)
    assert bodies[-2]["choices"][0]["finish_reason"] == "tool_calls"


@pytest.mark.parametrize("parts", [[], [part("Hel")]])
def test_a_stream_that_does_not_say_why_it_ended_was_cut(parts: list[AIMessage]) -> None:
    with pytest.raises(ProviderFailed):
        chunks(*parts)


def test_a_stream_without_usage_ends_with_its_reason() -> None:
    *_, end = chunks(part("Hi"), part(response_metadata={"stop_reason": "end_turn"}))
    assert end["choices"][0]["finish_reason"] == "stop"


def test_a_prompt_that_the_provider_did_not_count_is_estimated() -> None:
    uncounted = {"input_tokens": 0, "output_tokens": 7, "total_tokens": 7}
    *_, usage = chunks(
        part("Hi"), part(response_metadata={"stop_reason": "end_turn"}, usage_metadata=uncounted)
    )
    assert usage["usage"] == {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}


# What goes wrong


@pytest.fixture
def anthropic() -> LangChainProvider:
    return LangChainProvider("claude", "anthropic", api_key="k", address=BaseURL(), timeout=5)


@pytest.fixture
def other() -> LangChainProvider:
    """One whose model is LangChain's stand-in, with no parameters at all."""
    provider = LangChainProvider("other", "mistralai", api_key="k", address=BaseURL(), timeout=5)
    provider._chat_models["m"] = FakeListChatModel(responses=["Hello"])
    return provider


class SaidByStatus(Exception):
    def __init__(self, status: int, message: str) -> None:
        self.status_code = status
        self.body = {"type": "error", "error": {"message": message}}
        self.response = type("Response", (), {"headers": {"retry-after": "6.2"}})


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (SaidByStatus(400, "temperature: too high"), ProviderRefusedRequest),
        (SaidByStatus(401, "invalid x-api-key"), ProviderRefusedWeir),
        (SaidByStatus(403, "no"), ProviderRefusedWeir),
        (SaidByStatus(404, "model: claude-0"), ModelNotFound),
        (SaidByStatus(404, "Not found"), ProviderRefusedRequest),
        (SaidByStatus(413, "too large"), ProviderRefusedRequest),
        (SaidByStatus(422, "odd"), ProviderRefusedRequest),
        (SaidByStatus(429, "slow down"), ProviderBusy),
        (SaidByStatus(500, "oops"), ProviderFailed),
        (SaidByStatus(529, "Overloaded"), ProviderBusy),
        (ModelAuthenticationError(), ProviderRefusedWeir),
        (ModelNotFoundError("no such model"), ModelNotFound),
        (ModelRateLimitError(), ProviderBusy),
        (ModelTimeoutError(), ProviderTimedOut),
        (ModelConnectionError(), ProviderFailed),
        (ContextOverflowError("too long"), ProviderRefusedRequest),
        (TimeoutError(), ProviderTimedOut),
        (ConnectionResetError(), ProviderFailed),
    ],
)
def test_what_the_provider_says_is_told_in_weirs_words(
    anthropic: LangChainProvider, error: Exception, expected: type[Exception]
) -> None:
    assert type(anthropic._translate(error)) is expected


def test_a_busy_provider_says_when_to_come_back(anthropic: LangChainProvider) -> None:
    busy = anthropic._translate(SaidByStatus(429, "slow down"))
    assert busy is not None
    assert busy.retry_after == 6.2


def test_a_refusal_says_why(anthropic: LangChainProvider) -> None:
    assert "too high" in str(anthropic._translate(SaidByStatus(400, "temperature: too high")))


def test_weirs_own_timeout_is_found_in_what_wraps_it(anthropic: LangChainProvider) -> None:
    wrapped = ModelConnectionError()
    wrapped.__cause__ = ProviderTimedOut("too late")
    assert anthropic._translate(wrapped) is wrapped.__cause__


def test_what_nobody_foresaw_stays_as_it_is(anthropic: LangChainProvider) -> None:
    assert anthropic._translate(ZeroDivisionError()) is None


@pytest.mark.parametrize("parameter", ["temperature", "top_p", "max_tokens"])
def test_a_model_without_a_parameter_cannot_be_told_it(
    other: LangChainProvider, parameter: str
) -> None:
    with pytest.raises(UnsupportedParameter) as refusal:
        other.answer(ModelRequest({"messages": [HELLO], parameter: 1}), "m")
    assert refusal.value.parameter == parameter


@pytest.mark.parametrize(
    ("fields", "parameter"),
    [
        ({"user": "ann"}, "user"),
        ({"tools": [WEATHER]}, "tools"),
        ({"tools": [WEATHER], "parallel_tool_calls": False}, "parallel_tool_calls"),
    ],
)
def test_what_only_some_providers_know_is_named_for_the_others(
    other: LangChainProvider, fields: Any, parameter: str
) -> None:
    with pytest.raises(UnsupportedParameter) as refusal:
        other.answer(ModelRequest({"messages": [HELLO], **fields}), "m")
    assert refusal.value.parameter == parameter


def test_any_langchain_model_answers(other: LangChainProvider) -> None:
    assert other.answer(ModelRequest({"messages": [HELLO]}), "m").content == "Hello"


def test_a_model_that_has_no_temperature_takes_the_usual_one(other: LangChainProvider) -> None:
    other._chat_models["m"] = FakeListChatModel(responses=["Hello"], profile={"temperature": False})
    request = ModelRequest({"messages": [HELLO], "temperature": 1, "top_p": 1.0})
    assert other.answer(request, "m").content == "Hello"
    with pytest.raises(UnsupportedParameter, match="temperature"):
        other.answer(ModelRequest({"messages": [HELLO], "temperature": 0.5}, native=False), "m")
    # A native endpoint has a temperature by default: nobody asked for it.
    other.answer(ModelRequest({"messages": [HELLO], "temperature": 0.5}), "m")


def test_what_is_missing_is_said_with_how_to_get_it() -> None:
    assert "pip install langchain-cohere" in (check_installed("cohere") or "")
    assert "anthropic" in (check_installed("nobody") or "")
