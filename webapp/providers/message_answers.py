"""Reads what providers answer in the format of Anthropic's Messages, whole and as events.

Answers and events are passed on to clients as they came.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from typing import Any

from webapp import json_codec
from webapp.errors import (
    ProviderError,
    ProviderFailed,
    ProviderRefusedRequest,
    WeirError,
)
from webapp.llm.messages import Answer, Chunk, ModelRequest, Usage
from webapp.llm.stream_usage import StreamUsage
from webapp.providers.answers import CUT, malformed_as_provider_failed
from webapp.providers.reported_errors import read_error, translate_reported, translate_status
from webapp.providers.translation.usage import merged, to_chat_usage
from webapp.providers.usage import generated_text, read_usage

# Blocks whose beginning says nothing yet.
OPENED_EMPTY = {"text", "thinking"}
# The status of Anthropic's error types: errors within a stream come with status 200.
STATUS_OF_TYPE = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "timeout_error": 504,
    "api_error": 500,
    "overloaded_error": 529,
}


def read_message(text: str, request: ModelRequest, model: str, provider: str) -> Answer:
    """The whole answer. Raises the error that it holds, or ProviderFailed."""
    with malformed_as_provider_failed:
        body = json_codec.loads(text)
        if not isinstance(body, dict):
            raise ValueError("no object")
        if error := _error_in(body):
            raise error
        blocks = [block for block in _list(body["content"]) if isinstance(block, dict)]
        content = "".join(map(_text, blocks))
        generated = " ".join(map(generated_text, blocks))
        usage = read_usage(body.get("usage"), request, model, generated, None)
    answered = body.get("model")
    return Answer(content, _name(answered) or model, provider, usage, body=text)


class MessageReader:
    """Reads the events of one stream; `is_whole` says that it tells why it stopped."""

    def __init__(
        self, request: ModelRequest, model: str, provider: str, stream_usage: StreamUsage
    ) -> None:
        self._request = request
        self._model = model
        self._provider = provider
        self._stream_usage = stream_usage
        self._texts: list[str] = []
        self._generated: list[str] = []
        self._answered: str | None = None
        self._counts: dict[str, Any] = {}
        self.is_whole = False

    def read(self, data: str) -> list[Chunk]:
        """The events for the client. Raises the error that one is, or ProviderFailed."""
        with malformed_as_provider_failed:
            event = json_codec.loads(data)
            if event is None:
                return []
            if not isinstance(event, dict):
                raise ValueError("no object")
            if error := _error_in(event):
                if isinstance(error, ProviderError) and self._counts:
                    error.usage = self._usage()
                raise error
            if event.get("type") == "message":
                return [one for whole in events_of(json.loads(data)) for one in self.read(whole)]
            read = self._read(event, data)
            return [read] if read else []

    def end(self, *, said_done: bool) -> None:
        """Raise ProviderFailed if the stream ended early."""
        if not self.is_whole:
            raise ProviderFailed(CUT)

    def answer(self) -> Answer:
        answered = self._answered or self._model
        return Answer("".join(self._texts), answered, self._provider, self._usage())

    def _read(self, event: dict[str, Any], data: str) -> Chunk | None:
        text = generated = ""
        begins = False
        match event.get("type"):
            case "message_start":
                message = event["message"]
                self._answered = _name(message.get("model")) or self._answered
                # The output that it counts is only what there was until then.
                usage = message.get("usage")
                started = {**usage, "output_tokens": None} if isinstance(usage, dict) else {}
                self._counts = merged(self._counts, started)
                self._stream_usage.input = partial(
                    _input_of, self._counts, self._request, self._model
                )
            case "content_block_start":
                block = event["content_block"]
                text, generated = _text(block), generated_text(block)
                begins = bool(generated) or block.get("type") not in OPENED_EMPTY
            case "content_block_delta":
                delta = event["delta"]
                text = _text(delta) if delta.get("type") == "text_delta" else ""
                generated = generated_text(delta)
                begins = True
            case "message_delta":
                self._counts = merged(self._counts, event.get("usage"))
                self.is_whole = self.is_whole or bool((event.get("delta") or {}).get("stop_reason"))
                begins = True
            case "message_stop":
                self.is_whole = begins = True
            case str():  # such as a ping, or what is new
                pass
            case _:
                raise ValueError("no type")
        if generated or event.get("type") == "message_delta":
            # Not before: what it thinks without showing it takes time until then.
            self._stream_usage.count(generated)
        if generated:
            self._generated.append(generated)
        if text:
            self._texts.append(text)
        if event.get("type") == "message_delta" and event.get("usage"):
            self._stream_usage.usage = self._usage()
        if self._request.native:
            return Chunk("", text) if text else None
        return Chunk(data, text, begins)

    def _usage(self) -> Usage:
        generated = "".join(self._generated)
        return read_usage(self._counts, self._request, self._model, generated, None)


def _input_of(counts: dict[str, Any], request: ModelRequest, model: str) -> Usage | None:
    """The usage before the output, if the first event of a stream told it."""
    if not to_chat_usage(counts):
        return None
    usage = read_usage(counts | {"output_tokens": 0}, request, model, "", None)
    return replace(usage, estimated=True, input_reported=True)


def events_of(message: dict[str, Any]) -> list[str]:
    """The events of a whole message, as a stream of it would have them."""
    usage = message.get("usage")
    start = {**message, "content": [], "stop_reason": None, "stop_sequence": None}
    events: list[dict[str, Any]] = [{"type": "message_start", "message": start}]
    for index, block in enumerate(_list(message["content"])):
        opened, deltas = _opened(block)
        events.append({"type": "content_block_start", "index": index, "content_block": opened})
        events += [
            {"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas
        ]
        events.append({"type": "content_block_stop", "index": index})
    names = ("stop_reason", "stop_sequence", "stop_details", "container")
    ended = {name: message[name] for name in names if name in message}
    events.append({"type": "message_delta", "delta": ended, "usage": usage or {}})
    events.append({"type": "message_stop"})
    return [json.dumps(event) for event in events]


def message_error(body: Any, status: int = 200, retry_after: float | None = None) -> WeirError:
    """The WeirError for an error of Anthropic's, or of a proxy in front of it."""
    reported = read_error(body)
    if status < 400:
        known = STATUS_OF_TYPE.get(reported.kind or "")
        if known is None:
            return translate_reported(body, retry_after)
        status = known
    if "credit balance is too low" in reported.message:
        status = 402  # a 400 of Anthropic's
    if status == 409:
        status = 400  # the state of a thread does not fit the request
    error = translate_status(status, body, retry_after)
    if isinstance(error, ProviderRefusedRequest) and (details := _details(body)):
        error.details = {**(error.details or {}), "anthropic": details}
    return error


def _details(body: Any) -> dict[str, Any] | None:
    """What an error says for programs: the SDKs act on it."""
    error = body.get("error") if isinstance(body, dict) else None
    details = error.get("details") if isinstance(error, dict) else None
    return details if isinstance(details, dict) else None


def _error_in(body: dict[str, Any]) -> WeirError | None:
    """The error that an answer or an event is."""
    failed = body.get("type") == "error" or body.get("error")
    return message_error(body) if failed else None


def _opened(block: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A block as its first event has it, and the deltas that follow."""
    match block.get("type"):
        case "text":
            return {**block, "text": ""}, [{"type": "text_delta", "text": block["text"]}]
        case "thinking":
            deltas = [{"type": "thinking_delta", "thinking": block["thinking"]}]
            if signature := block.get("signature"):
                deltas.append({"type": "signature_delta", "signature": signature})
            return {**block, "thinking": "", "signature": ""}, deltas
        case "tool_use" | "server_tool_use" | "mcp_tool_use":
            text = json.dumps(block.get("input") or {}, ensure_ascii=False)
            return {**block, "input": {}}, [{"type": "input_json_delta", "partial_json": text}]
    return block, []


def _text(block: dict[str, Any]) -> str:
    """The text of a block or delta; empty for those that are not text."""
    text = block.get("text") if block.get("type") in {"text", "text_delta"} else None
    return text if isinstance(text, str) else ""


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError("no list")
    return value


def _name(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None
