"""What Anthropic's provider sends, and what it passes on as it came."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support import asking
from tests.support.gevent_process import GeventProcess
from tests.support.raw_provider import RawProvider, Reply
from tests.support.recording_provider import RecordingProvider
from webapp.base_url import BaseURL
from webapp.errors import ProviderFailed
from webapp.llm.messages import ModelRequest, Usage
from webapp.providers.anthropic import AnthropicProvider

MODEL = "claude-opus-5"
SIGNED = {"type": "thinking", "thinking": "Hm.", "signature": "sig"}
DATES = {"a": "yesterday", "b": None, "c": "2025-02-19T00:00:00Z"}
UNSIGNED = {"type": "thinking", "thinking": "Hm.", "signature": ""}
WORDS = {"type": "text", "text": "Hi"}
# As no SDK would write it: what nobody knows, large numbers, spaces.
BODY = (
    '{ "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-opus-5",'
    ' "content": [{"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {}},'
    ' {"type": "text", "text": "Hi", "citations": [{"n": 12345678901234567890}]}],'
    ' "stop_reason": "end_turn", "x_new": 1e-07, "usage": {"input_tokens": 9,'
    ' "cache_read_input_tokens": 4, "cache_creation_input_tokens": 2, "output_tokens": 7,'
    ' "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 2},'
    ' "server_tool_use": {"web_search_requests": 1}, "service_tier": "priority"} }'
)
USAGE = Usage(
    15, 7, 4, cache_write_1h_tokens=2, web_searches=1, service_tier="priority"
)  # fmt: skip


@pytest.fixture(scope="module")
def process() -> Iterator[GeventProcess]:
    with GeventProcess() as running:
        yield running


@pytest.fixture(scope="module")
def raw() -> Iterator[RawProvider]:
    with RawProvider() as provider:
        yield provider


def at(url: str) -> dict[str, str]:
    return {"ANTHROPIC_BASE_URL": url, "ANTHROPIC_API_KEY": "sk-ant-key"}


def asked(text: str, *earlier: Any, stream: bool = False, **fields: Any) -> ModelRequest:
    messages = [*earlier, {"role": "user", "content": text}]
    body = {"max_tokens": 9, "messages": messages, **fields}
    return ModelRequest(body, operation="messages", native=False, stream=stream)


def test_an_answer_is_passed_on_to_the_letter(process: GeventProcess, raw: RawProvider) -> None:
    marker = raw.register(Reply([BODY.encode()]))
    answer = process.run(asking.answer, at(raw.url), asked(marker, x_unknown=[1]), MODEL)
    assert answer.body == BODY
    assert answer.usage == USAGE
    assert answer.content == "Hi"
    [sent] = raw.calls(marker)
    assert sent == {"model": MODEL, **asked(marker, x_unknown=[1]).body}


def test_events_are_passed_on_to_the_letter(process: GeventProcess, raw: RawProvider) -> None:
    usage = json.loads(BODY)["usage"]
    events = [
        '{"type":"message_start","message":{"model":"claude-opus-5","usage":{"input_tokens":9}}}',
        '{"type": "ping"}',
        '{"type": "content_block_start", "index": 0, "content_block": {"type": "thinking"}}',
        '{"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta",'
        ' "thinking": "Hm."}}',
        '{"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta",'
        ' "signature": "sig"}}',
        '{"type": "x_new", "n": 12345678901234567890}',
        '{"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta",'
        ' "text": "Hi"}}',
        '{"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": '
        + json.dumps(usage)
        + "}",
        '{"type": "message_stop"}',
    ]
    marker = raw.register(Reply.events(*events))
    reading = process.run(asking.read, at(raw.url), asked(marker, stream=True), MODEL)
    assert reading.error is None
    assert [chunk.data for chunk in reading.chunks] == events
    # What comes before can still come from another provider.
    assert [chunk.begins for chunk in reading.chunks].index(True) == 3
    assert reading.answers[0].usage == reading.usage == USAGE
    assert reading.text == "Hi"
    assert raw.calls(marker)[0]["stream"] is True


def test_a_server_that_does_not_stream_is_read_as_a_stream(
    process: GeventProcess, raw: RawProvider
) -> None:
    marker = raw.register(Reply([BODY.encode()]))
    reading = process.run(asking.read, at(raw.url), asked(marker, stream=True), MODEL)
    assert reading.error is None
    kinds = [json.loads(chunk.data)["type"] for chunk in reading.chunks]
    assert (kinds[0], kinds[-1]) == ("message_start", "message_stop")
    assert "12345678901234567890" in "".join(chunk.data for chunk in reading.chunks)
    assert reading.answers[0].usage == USAGE


def test_the_client_s_version_and_betas_are_sent(process: GeventProcess) -> None:
    own = {"anthropic-version": "2026-10-21", "anthropic-beta": "a,b", "cookie": "c"}
    with RecordingProvider() as server:
        environment = at(f"http://127.0.0.1:{server.port}")
        process.run(asking.answer, environment, asked("hello"), MODEL)
        told = ModelRequest(
            asked("hello").body, operation="messages", native=False, headers=own
        )  # fmt: skip
        process.run(asking.answer, environment, told, MODEL)
    first, second = (call.headers for call in server.calls)
    assert first["anthropic-version"] == "2023-06-01"
    assert "anthropic-beta" not in first
    assert (second["anthropic-version"], second["anthropic-beta"]) == ("2026-10-21", "a,b")
    assert second["x-api-key"] == "sk-ant-key"
    assert "cookie" not in second


def test_thinking_that_nobody_signed_is_left_out(process: GeventProcess, raw: RawProvider) -> None:
    marker = raw.register(Reply([BODY.encode()]))
    for content, kept in (
        ([UNSIGNED, WORDS], [WORDS]),
        ([SIGNED, WORDS], [SIGNED, WORDS]),
        ([UNSIGNED], None),
        ("Hi", "Hi"),
    ):
        said = {"role": "assistant", "content": content}
        process.run(asking.answer, at(raw.url), asked(marker, said), MODEL)
        sent = [one["content"] for one in raw.calls(marker)[-1]["messages"][:-1]]
        assert sent == ([] if kept is None else [kept])
        # Other models behind the same API do not sign, and may want it back.
        process.run(asking.answer, at(raw.url), asked(marker, said), "deepseek-chat")
        assert raw.calls(marker)[-1]["messages"][0]["content"] == content


def test_a_date_of_a_model_that_is_none_hides_no_model(
    process: GeventProcess, raw: RawProvider
) -> None:
    listed = [{"type": "model", "id": name, "created_at": at} for name, at in DATES.items()]
    raw.listings["/v1/models?limit=1000"] = Reply.json({"data": listed, "has_more": False})
    found = process.run(asking.models, at(raw.url))
    assert {one["id"]: one["created"] for one in found} == {"a": 0, "b": 0, "c": 1739923200}


def test_a_client_of_its_other_endpoints_asks_as_it_does() -> None:  # such as batches
    address = BaseURL("http://host", query="team=a%20b", user_info="gate:pass")
    claude = AnthropicProvider("claude", api_key="k", address=address, timeout=1)
    url, key, headers, query = claude.connection
    assert (url, key, query) == ("http://host", "k", {"team": "a b"})
    assert (headers["x-api-key"], headers["anthropic-version"]) == ("k", "2023-06-01")
    assert headers["Authorization"] == address.authorization
    chat = ModelRequest({"messages": [{"role": "user", "content": "Hello"}]}, native=False)
    assert claude.parameters(chat, MODEL) == {
        "model": MODEL,
        "max_tokens": 16_384,
        "messages": [{"role": "user", "content": "Hello"}],
    }
    assert claude.parameters(asked("Hello"), MODEL) == {"model": MODEL, **asked("Hello").body}
    [choice] = json.loads(claude.written(BODY, MODEL))["choices"]
    assert choice["message"]["content"] == "Hi"
    with pytest.raises(ProviderFailed):
        claude.written("[]", MODEL)


def test_langchain_is_not_imported_for_a_claude() -> None:
    program = (
        "import sys\n"
        "from webapp.base_url import BaseURL\n"
        "from webapp.providers import AnthropicProvider\n"
        "from webapp.llm.messages import ModelRequest\n"
        "claude = AnthropicProvider('c', api_key='k', address=BaseURL('http://127.0.0.1:9'),"
        " timeout=1)\n"
        "hello = {'role': 'user', 'content': 'Hello'}\n"
        "try: claude.answer(ModelRequest({'messages': [hello]}), 'claude-opus-5')\n"
        "except Exception as error: print(type(error).__name__)\n"
        "print([name for name in sys.modules if 'langchain' in name and 'webapp' not in name])\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ran.stdout.splitlines() == ["ProviderFailed", "[]"], ran.stderr
