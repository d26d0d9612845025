"""Translates the answers of Anthropic's Messages to chat completions, whole and in chunks.

Thinking becomes `reasoning_content`, its text, and `thinking_blocks`, which carry the signatures
and redacted thinking: a client that uses tools sends these back. In a stream each block comes whole
in one delta, numbered by `index`, as OpenAI's SDKs join the entries of lists by it.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping
from typing import Any

from webapp import json_codec
from webapp.llm.messages import Answer, Usage
from webapp.providers.translation.usage import merged, to_chat_tier, to_chat_usage

FINISH_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "compaction": "stop",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "content_filter",
}
THINKING = ("thinking", "redacted_thinking")


def to_chat_answer(answer: Answer, model: str) -> str:
    """The JSON of a chat.completion."""
    message = json.loads(answer.body)
    blocks = [block for block in message["content"] if isinstance(block, dict)]
    calls = [
        _call(block["id"], block["name"], json.dumps(block.get("input") or {}, ensure_ascii=False))
        for block in blocks
        if block.get("type") == "tool_use"
    ]
    content = "".join(block["text"] for block in blocks if block.get("type") == "text")
    said: dict[str, Any] = {
        "role": "assistant",
        "content": content or (None if calls else ""),
        "refusal": _refusal(message),
    }
    thoughts = [block for block in blocks if block.get("type") in THINKING]
    if thoughts:
        if reasoning := "".join(block.get("thinking") or "" for block in thoughts):
            said["reasoning_content"] = reasoning
        said["thinking_blocks"] = thoughts
    if calls:
        said["tool_calls"] = calls
    reason = _finish_reason(message.get("stop_reason"), calls=bool(calls))
    choice = {"index": 0, "message": said, "logprobs": None, "finish_reason": reason}
    counts = merged({}, message.get("usage"))
    body = _head(message, model) | {"object": "chat.completion", "choices": [choice]}
    if usage := to_chat_usage(counts):
        body["usage"] = usage
    return json.dumps(body | to_chat_tier(counts))


class ChunkWriter:
    """Writes the events of one stream of Messages as chunks of a chat completion."""

    def __init__(self, model: str, *, usage_wanted: bool) -> None:
        self._head = _head({}, model)
        self._usage_wanted = usage_wanted
        self._counts: dict[str, Any] = {}
        self._reason: Any = None
        self._thoughts: dict[int, dict[str, Any]] = {}  # by the index of their blocks
        self._thinking: dict[int, list[str]] = {}  # their texts so far
        self._thoughts_sent = 0
        self._calls: dict[int, int] = {}  # the numbers of the calls, by the index of their blocks
        self._without_arguments: dict[int, str] = {}  # the arguments that a block began with

    def take(self, data: str) -> list[str]:
        """The chunks of an event."""
        event = json_codec.loads(data)
        match event.get("type"):
            case "message_start":
                return self._begin(event.get("message") or {})
            case "content_block_start":
                return self._start(event.get("index"), event["content_block"])
            case "content_block_delta":
                return self._delta(event.get("index"), event["delta"])
            case "content_block_stop":
                return self._stop(event.get("index"))
            case "message_delta":
                return self._end(event)
        return []

    def end(self, usage: Usage) -> list[str]:
        """The chunks after the last event."""
        reason = _finish_reason(self._reason, calls=bool(self._calls))
        chunks = [self._chunk({}, reason)]
        told = to_chat_usage(self._counts) if self._usage_wanted else None
        return [*chunks, self._text([], {"usage": told})] if told else chunks

    def _begin(self, message: Mapping[str, Any]) -> list[str]:
        self._head = _head(message, self._head["model"])
        self._count(message.get("usage"))
        return [self._chunk({"role": "assistant", "content": "", "refusal": None})]

    def _start(self, index: Any, block: Mapping[str, Any]) -> list[str]:
        kind = block.get("type")
        if kind == "tool_use":
            number = self._calls[index] = len(self._calls)
            given = block.get("input")
            self._without_arguments[index] = json.dumps(given or {}, ensure_ascii=False)
            return [self._call({"index": number, **_call(block["id"], block["name"], "")})]
        if kind in THINKING:
            thinking = block.get("thinking")
            self._begin_thought(index, dict(block))
            return [self._chunk({"reasoning_content": thinking})] if thinking else []
        text = block.get("text") if kind == "text" else None
        return [self._chunk({"content": text})] if text else []

    def _delta(self, index: Any, delta: Mapping[str, Any]) -> list[str]:
        match delta.get("type"):
            case "text_delta":
                return [self._chunk({"content": delta["text"]})] if delta["text"] else []
            case "thinking_delta":
                thinking = delta["thinking"]
                self._begin_thought(index, {"type": "thinking", "thinking": ""})
                self._thinking[index].append(thinking)
                return [self._chunk({"reasoning_content": thinking})] if thinking else []
            case "signature_delta":
                self._begin_thought(index, {"type": "thinking", "thinking": ""})
                self._thoughts[index]["signature"] = delta["signature"]
            case "input_json_delta" if index in self._calls and delta["partial_json"]:
                self._without_arguments.pop(index, None)
                arguments = {"arguments": delta["partial_json"]}
                return [self._call({"index": self._calls[index], "function": arguments})]
        return []

    def _begin_thought(self, index: Any, block: dict[str, Any]) -> None:
        if index not in self._thoughts:
            self._thoughts[index] = block
            self._thinking[index] = [block.get("thinking") or ""]

    def _stop(self, index: Any) -> list[str]:
        if index in self._thoughts:
            number, self._thoughts_sent = self._thoughts_sent, self._thoughts_sent + 1
            thought = {"index": number, **self._thoughts.pop(index)}
            thinking = "".join(self._thinking.pop(index))
            if "thinking" in thought or thinking:
                thought["thinking"] = thinking
            return [self._chunk({"thinking_blocks": [thought]})]
        if index in self._without_arguments:
            # An empty text would be no JSON.
            arguments = {"arguments": self._without_arguments.pop(index)}
            return [self._call({"index": self._calls[index], "function": arguments})]
        return []

    def _end(self, event: Mapping[str, Any]) -> list[str]:
        delta = event.get("delta") or {}
        self._reason = delta.get("stop_reason") or self._reason
        self._count(event.get("usage"))
        refusal = _refusal(delta)
        return [self._chunk({"refusal": refusal})] if refusal else []

    def _count(self, usage: Any) -> None:
        self._counts = merged(self._counts, usage)
        self._head |= to_chat_tier(self._counts)

    def _call(self, call: dict[str, Any]) -> str:
        return self._chunk({"tool_calls": [call]})

    def _chunk(self, delta: dict[str, Any], reason: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return self._text([choice], {"usage": None} if self._usage_wanted else {})

    def _text(self, choices: list[dict[str, Any]], more: dict[str, Any]) -> str:
        kind = {"object": "chat.completion.chunk"}
        return json.dumps({**self._head, **kind, "choices": choices, **more})


def _head(message: Mapping[str, Any], model: str) -> dict[str, Any]:
    """The fields that are the same in all chunks."""
    return {
        "id": message.get("id") or f"chatcmpl-{uuid.uuid4().hex}",
        "created": int(time.time()),
        "model": message.get("model") or model,
    }


def _call(id_: str, name: str, arguments: str) -> dict[str, Any]:
    return {"id": id_, "type": "function", "function": {"name": name, "arguments": arguments}}


def _finish_reason(reason: Any, *, calls: bool) -> str:
    known = FINISH_REASONS.get(reason, "stop") if isinstance(reason, str) else "stop"
    return "tool_calls" if calls and known == "stop" else known


def _refusal(message: Mapping[str, Any]) -> str | None:
    """Anthropic's words about a refusal, if it has any."""
    details = message.get("stop_details")
    explanation = details.get("explanation") if isinstance(details, Mapping) else None
    return explanation if isinstance(explanation, str) and explanation else None
