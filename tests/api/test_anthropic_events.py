"""Anthropic's answers and events to the letter: usage, reasons to stop, errors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from tests.conftest import MakeWeir
from tests.support.books import Books
from tests.support.raw_provider import RawProvider, Reply
from tests.support.servers import Weir

KEY = "trial_key_0123456789"
PATH = "/v1/chat/completions"
HAIKU = "anthropic/claude-haiku-4-5"
CLAUDE = "claude"  # its route
CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "get_time", "arguments": '{"city":"Oslo"}'},
}
TOOL = {"type": "function", "function": {"name": "get_time", "parameters": {"type": "object"}}}
OPENAI = {
    "id": "c1",
    "object": "chat.completion",
    "created": 1750000000,
    "model": "m1",
    "choices": [
        {"index": 0, "message": {"role": "assistant", "content": "Other"}, "finish_reason": "stop"}
    ],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
}


@pytest.fixture(scope="module")
def claude() -> Iterator[RawProvider]:
    with RawProvider() as provider:
        yield provider


@pytest.fixture(scope="module")
def weir(start_shared_weir: MakeWeir, claude: RawProvider) -> Weir:
    return start_shared_weir(
        API_KEYS=f"trial:enterprise:{KEY}",
        TIERS="enterprise=99999/minute",
        ANTHROPIC_API_KEY="sk-ant-secret-0123456789",
        ANTHROPIC_BASE_URL=claude.url,
        OPENAI_API_KEY="sk-up",
        OPENAI_BASE_URL=f"{claude.url}/v1",
        MODEL_ROUTES=f"{CLAUDE}={HAIKU};both={HAIKU}>openai/m1",
        LLM_MAX_RETRIES=0,
        BREAKER_FAILURES=1_000_000,
    )


def message(content: Any = "Hi there", reason: str | None = "end_turn", **usage: Any) -> Any:
    blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-haiku-4-5",
        "content": blocks,
        "stop_reason": reason,
        "stop_sequence": None,
        "usage": {"input_tokens": 9, "output_tokens": 7} | usage,
    }


def begun(**usage: Any) -> dict[str, Any]:
    return {"type": "message_start", "message": message([], None, output_tokens=1, **usage)}


def said(text: str) -> list[dict[str, Any]]:
    block = {"type": "text", "text": ""}
    delta = {"type": "text_delta", "text": text}
    return [
        {"type": "content_block_start", "index": 0, "content_block": block},
        {"type": "ping"},
        {"type": "content_block_delta", "index": 0, "delta": delta},
        {"type": "content_block_stop", "index": 0},
    ]


def ended(reason: str = "end_turn", **usage: Any) -> list[dict[str, Any]]:
    delta = {"stop_reason": reason, "stop_sequence": None}
    usage = {"output_tokens": 7} | usage
    return [{"type": "message_delta", "delta": delta, "usage": usage}, {"type": "message_stop"}]


def failing(kind: str = "overloaded_error", text: str = "Overloaded") -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "message": text}}


def ask(weir: Weir, marker: str, **fields: Any) -> requests.Response:
    body = {"model": CLAUDE, "max_tokens": 50, "messages": [{"role": "user", "content": marker}]}
    return weir.post(PATH, key=KEY, json=body | fields)


def data(answer: requests.Response) -> list[Any]:
    lines = [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


def booked(weir: Weir, answer: requests.Response) -> dict[str, Any]:
    """The ledger's row of a request's only call."""
    books = Books(weir)
    books.settled(1)
    request_id = answer.headers["X-Request-ID"]
    [row] = [row for row in books.rows() if row["request_id"] == request_id]
    return row


CACHED = {"input_tokens": 9, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 1}


@pytest.mark.parametrize(
    ("start", "delta", "prompt", "cached", "written"),
    [
        pytest.param(CACHED, CACHED, 10, 1, 0, id="c15"),
        pytest.param({"input_tokens": 1500}, {}, 1500, 0, 0, id="only-at-the-start"),
        pytest.param({"input_tokens": 1500}, {"input_tokens": 0}, 1500, 0, 0, id="then-zero"),
        pytest.param(
            {"input_tokens": 4, "cache_creation_input_tokens": 1200},
            {},
            1204,
            0,
            1200,
            id="written-to-the-cache",
        ),
    ],
)
def test_a_stream_counts_its_input_once(
    weir: Weir,
    claude: RawProvider,
    start: Any,
    delta: Any,
    prompt: int,
    cached: int,
    written: int,
) -> None:
    events = [begun(**start), *said("Hi there"), *ended(**delta)]
    options = {"include_usage": True}
    marker = claude.register(Reply.events(*events))
    answer = ask(weir, marker, stream=True, stream_options=options)
    *_, last = data(answer)
    usage = last["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (prompt, 7)
    assert usage["prompt_tokens_details"]["cached_tokens"] == cached
    assert usage["prompt_tokens_details"]["cache_write_tokens"] == written
    row = booked(weir, answer)
    assert (row["input_tokens"], row["output_tokens"], row["estimated"]) == (prompt, 7, 0)
    native = {"message": claude.register(Reply.events(*events)), "model": CLAUDE, "stream": True}
    done = data(weir.post("/chat", key=KEY, json=native))[-1]
    assert (done["usage"]["input_tokens"], done["usage"]["output_tokens"]) == (prompt, 7)


def test_a_plain_answer_tells_what_was_written_to_the_cache(
    weir: Weir, claude: RawProvider
) -> None:
    by_time = {"ephemeral_5m_input_tokens": 200, "ephemeral_1h_input_tokens": 300}
    counts = {"cache_creation_input_tokens": 500, "cache_read_input_tokens": 1}
    body = message(**counts, cache_creation=by_time, service_tier="priority")
    told = ask(weir, claude.register(Reply.json(body))).json()
    assert told["usage"]["prompt_tokens"] == 510
    assert told["usage"]["prompt_tokens_details"] == {
        "cached_tokens": 1,
        "cache_write_tokens": 500,
        "cache_creation_token_details": by_time,
    }
    assert told["service_tier"] == "priority"


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("pause_turn", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("refusal", "content_filter"),
    ],
)
def test_why_claude_stopped_is_told(
    weir: Weir, claude: RawProvider, reason: str, expected: str
) -> None:  # c39 a and b
    for content in ([], "I"):
        answer = ask(weir, claude.register(Reply.json(message(content, reason))))
        assert answer.status_code == 200, answer.text
        [choice] = answer.json()["choices"]
        assert choice["finish_reason"] == expected
        assert choice["message"]["content"] == (content or "")
    marker = claude.register(Reply.events(begun(), *said("I"), *ended(reason)))
    chunks = data(ask(weir, marker, stream=True))
    reasons = [choice["finish_reason"] for chunk in chunks for choice in chunk["choices"]]
    assert [reason for reason in reasons if reason] == [expected]


def test_an_error_amid_a_stream_ends_it(weir: Weir, claude: RawProvider) -> None:  # c39 C
    marker = claude.register(Reply.events(begun(), *said("Part")[:3], failing()))
    for _ in range(2):
        *chunks, last = data(answer := ask(weir, marker, stream=True))
        deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
        assert "".join(delta.get("content") or "" for delta in deltas) == "Part"
        assert not any(choice["finish_reason"] for c in chunks for choice in c["choices"])
        assert last["error"]["type"] == "server_error"
        assert last["error"]["provider"] == {"status": 529, "message": "Overloaded"}
        assert answer.headers["X-Cache"] == "MISS"
        row = booked(weir, answer)
        assert (row["state"], row["estimated"]) == ("cut", 1)
        assert row["input_tokens"] >= 9


def test_an_error_before_any_content_goes_to_the_next_target(
    weir: Weir, claude: RawProvider
) -> None:  # c39 D
    other = Reply.events(
        {"choices": [{"index": 0, "delta": {"content": "Other"}, "finish_reason": None}]},
        {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
        "[DONE]",
    )
    replies = {"messages": Reply.events(begun(), {"type": "ping"}, failing())}
    marker = claude.register(replies | {"completions": other})
    answer = ask(weir, marker, model="both", stream=True)
    assert (answer.status_code, answer.headers["X-Weir-Provider"]) == (200, "openai")
    assert "Other" in answer.text
    marker = claude.register(
        {"messages": Reply.json(failing(), 529), "completions": Reply.json(OPENAI)}
    )
    answer = ask(weir, marker, model="both")
    assert answer.json()["choices"][0]["message"]["content"] == "Other"


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize(
    ("kind", "status", "expected"),
    [
        ("invalid_request_error", 400, 400),
        ("authentication_error", 401, 502),
        ("billing_error", 402, 502),
        ("permission_error", 403, 502),
        ("not_found_error", 404, 400),
        ("request_too_large", 413, 400),
        ("rate_limit_error", 429, 503),
        ("timeout_error", 504, 504),
        ("api_error", 500, 502),
        ("overloaded_error", 529, 503),
    ],
)
def test_an_error_is_the_same_by_its_status_and_as_an_event(
    weir: Weir, claude: RawProvider, kind: str, status: int, expected: int, streamed: bool
) -> None:
    error = failing(kind, "Words of Anthropic's")
    answers = [ask(weir, claude.register(Reply.json(error, status)), stream=streamed)]
    if streamed:
        answers += [ask(weir, claude.register(Reply.events(begun(), error)), stream=True)]
    for answer in answers:
        assert answer.status_code == expected, answer.text
        told = answer.json()["error"]
        # Of a credential or an account only the operator is told.
        if status not in {401, 402, 403}:
            assert "Words of Anthropic's" in told["message"]
        if status >= 500:
            assert told["provider"] == {"status": status, "message": "Words of Anthropic's"}
    row = booked(weir, answers[0])
    assert (row["state"], row["cost_nano"]) == ("failed", 0)


def test_an_error_with_status_200_is_one(weir: Weir, claude: RawProvider) -> None:
    marker = claude.register(Reply.json(failing()))
    for _ in range(2):
        answer = ask(weir, marker)
        assert answer.status_code == 503, answer.text
        assert answer.json()["error"]["provider"] == {"status": 529, "message": "Overloaded"}
        row = booked(weir, answer)
        assert (row["state"], row["cost_nano"]) == ("failed", 0)


def test_a_stream_whose_end_counts_nothing_is_estimated(weir: Weir, claude: RawProvider) -> None:
    end = ended()
    del end[0]["usage"]
    marker = claude.register(Reply.events(begun(), *said("Hi there, all of you"), *end))
    row = booked(weir, ask(weir, marker, stream=True))
    assert (row["state"], row["input_tokens"], row["estimated"]) == ("settled", 9, 1)
    assert row["output_tokens"] > 1


def test_events_of_any_name_pass_and_the_last_one_is_never_missing(
    weir: Weir, claude: RawProvider
) -> None:
    new = {"type": "block.new-kind", "words": "all of them"}
    sent = [begun(), new, *said("Hi"), *ended()]
    for events in (sent, sent[:-1]):
        marker = claude.register(Reply.events(*events))
        body = {"model": CLAUDE, "max_tokens": 9, "messages": [{"role": "user", "content": marker}]}
        answer = weir.post("/v1/messages", key=KEY, json=body | {"stream": True})
        found = [block for block in answer.text.split("\n\n") if block and block[0] != ":"]
        assert found == [f"event: {one['type']}\ndata: {json.dumps(one)}" for one in sent]


def test_a_tool_message_may_repeat_the_function_s_name(
    weir: Weir, claude: RawProvider
) -> None:  # c37
    called = {
        "role": "assistant",
        "content": None,
        "refusal": None,
        "audio": None,
        "function_call": None,
        "annotations": [],
        "tool_calls": [CALL],
    }
    result = {"role": "tool", "tool_call_id": "call_1", "name": "get_time", "content": "12:00"}
    marker = claude.register(Reply.json(message()))
    asked = [{"role": "user", "content": marker}, called, result]
    answer = ask(weir, marker, tools=[TOOL], messages=asked)
    assert answer.status_code == 200, answer.text
    [sent] = claude.calls(marker)
    _, use, told = sent["messages"]
    assert use["content"][0]["name"] == "get_time"
    assert told["content"][0]["content"] == "12:00"
    asked[2] = result | {"name": "get_weather"}
    answer = ask(weir, marker, tools=[TOOL], messages=asked)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "messages.2.name")


IMAGE = "data:image/png;base64,iVBORw0KGgo="
PARTS = [
    {"type": "text", "text": "What is this?"},
    {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}},
    {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVB"}},
    {"type": "input_video", "input_video": {"data": "AAAA"}},
    {"type": "image_url", "image_url": {"url": IMAGE, "detail": "high"}},
]
FIELDS = {
    "modalities": ["text", "audio"],
    "audio": {"voice": "alloy", "format": "wav"},
    "verbosity": "low",
    "service_tier": "flex",
    "metadata": {"weird key é \0": "v"},
    "prediction": {"type": "content", "content": "x"},
}


def test_nothing_is_dropped_without_a_word(weir: Weir, claude: RawProvider) -> None:  # c28
    marker = claude.register(Reply.json(message()))
    developer = {"role": "developer", "content": "Be brief."}
    named = {"role": "user", "name": "alex", "content": [*PARTS, {"type": "text", "text": marker}]}
    answer = ask(weir, marker, messages=[developer, named], **FIELDS)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "messages.1.name")
    for index, part in enumerate(PARTS[1:]):
        content = [{"type": "text", "text": marker}, part]
        answer = ask(weir, marker, messages=[{"role": "user", "content": content}])
        assert answer.status_code == 400, part
        end = {1: "file.file_data", 3: "image_url.detail"}.get(index, "type")
        assert answer.json()["error"]["param"] == f"messages.0.content.1.{end}"
    for name, value in FIELDS.items():
        answer = ask(weir, marker, **{name: value})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, name)
    assert claude.calls(marker) == []
    asked = [developer, {"role": "user", "content": marker}]
    assert ask(weir, marker, messages=asked).status_code == 200
    assert claude.calls(marker)[0]["system"] == "Be brief."
