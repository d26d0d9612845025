"""Converts the answers of LangChain models to OpenAI's format, whole and in chunks."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from webapp.errors import ProviderFailed
from webapp.providers.answers import CUT

if TYPE_CHECKING:
    from langchain_core.messages import AIMessage

FINISH_REASONS = {
    "length": "length",
    "max_tokens": "length",
    "model_length": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "tool_calls": "tool_calls",
    "tool_call": "tool_calls",
    "function_call": "tool_calls",
    "refusal": "content_filter",
    "content_filter": "content_filter",
    "content_filtered": "content_filter",
    "guardrail_intervened": "content_filter",
    "safety": "content_filter",
    "prohibited_content": "content_filter",
    "blocklist": "content_filter",
    "spii": "content_filter",
}
REASON_KEYS = ("stop_reason", "finish_reason", "done_reason", "stopReason")


def write_answer(message: AIMessage, model: str) -> str:
    """The JSON of a chat.completion."""
    calls = _calls(message)
    text = str(message.text)
    answered: dict[str, Any] = {
        "role": "assistant",
        "content": text or (None if calls else ""),
        "refusal": None,
    }
    if reasoning := _reasoning(message):
        answered["reasoning_content"] = reasoning
    if calls:
        answered["tool_calls"] = calls
    reason = _finish_reason(_reason(message), bool(calls))
    choice = {"index": 0, "message": answered, "logprobs": None, "finish_reason": reason}
    body = _head("chat.completion", _model_name(message) or model) | {"choices": [choice]}
    if usage := _usage(message.usage_metadata):
        body["usage"] = usage
    return json.dumps(body)


def write_chunks(
    messages: Iterable[AIMessage], model: str, estimate: Callable[[], int]
) -> Iterator[str]:
    """The JSON of each chat.completion.chunk.

    `estimate` returns the tokens of the prompt, for providers that count only output tokens.
    Raises ProviderFailed if the messages end without a finish reason.
    """
    writing = _StreamWriting(model, estimate)
    for message in messages:
        yield from writing.take(message)
    yield from writing.end()


class _StreamWriting:
    """The state of a streamed answer between its messages."""

    def __init__(self, model: str, estimate: Callable[[], int]) -> None:
        self._head = _head("chat.completion.chunk", model)
        self._calls = _StreamedCalls()
        self._began = False
        self._reason: str | None = None
        self._usage: Any = None
        self._estimate = estimate

    def take(self, message: AIMessage) -> Iterator[str]:
        from langchain_core.messages.ai import add_usage

        self._head["model"] = _model_name(message) or self._head["model"]
        self._reason = _reason(message) or self._reason
        if message.usage_metadata:
            self._usage = add_usage(self._usage, message.usage_metadata)
        if not self._began:
            self._began = True
            yield self._chunk({"role": "assistant", "content": "", "refusal": None})
        if reasoning := _reasoning(message):
            yield self._chunk({"reasoning_content": reasoning})
        if text := str(message.text):
            yield self._chunk({"content": text})
        for call in self._calls.take(message):
            yield self._chunk({"tool_calls": [call]})

    def end(self) -> Iterator[str]:
        if self._reason is None:
            raise ProviderFailed(CUT)
        for call in self._calls.end():
            yield self._chunk({"tool_calls": [call]})
        yield self._chunk({}, _finish_reason(self._reason, self._calls.any))
        if self._usage and not self._usage["input_tokens"]:
            self._usage["input_tokens"] = self._estimate()
        if usage := _usage(self._usage):
            yield self._text([], {"usage": usage})

    def _chunk(self, delta: dict[str, Any], reason: str | None = None) -> str:
        return self._text(
            [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}], {}
        )

    def _text(self, choices: list[dict[str, Any]], more: dict[str, Any]) -> str:
        return json.dumps(self._head | {"choices": choices} | more)


class _StreamedCalls:
    """Numbers the tool calls of a stream as OpenAI does: from 0, ignoring other content."""

    def __init__(self) -> None:
        self._ids: list[str] = []
        self._places: dict[Any, int] = {}
        self._without_arguments: set[int] = set()

    @property
    def any(self) -> bool:
        return bool(self._ids)

    def take(self, message: AIMessage) -> Iterator[dict[str, Any]]:
        for fragment in _fragments(message):
            place = self._place(fragment)
            if place is None:
                place = self._begin(fragment)
                yield _call_delta(place, fragment["name"] or "", self._ids[place])
            if arguments := fragment["args"]:
                self._without_arguments.discard(place)
                yield {"index": place, "function": {"arguments": arguments}}

    def end(self) -> Iterator[dict[str, Any]]:
        """Add `{}` to calls without arguments: an empty string is not valid JSON."""
        for place in sorted(self._without_arguments):
            yield {"index": place, "function": {"arguments": "{}"}}

    def _place(self, fragment: Mapping[str, Any]) -> int | None:
        """The index of the fragment's call; None if it begins a new one."""
        place = self._places.get(_key(fragment))
        if fragment["name"]:
            same = place is not None and fragment["id"] in (None, "", self._ids[place])
            return place if same else None
        return len(self._ids) - 1 if place is None and self._ids else place

    def _begin(self, fragment: Mapping[str, Any]) -> int:
        id_ = fragment["id"] or _call_id()
        place = len(self._ids)
        self._ids.append(id_)
        self._places[_key(fragment)] = place
        self._without_arguments.add(place)
        return place


def _key(fragment: Mapping[str, Any]) -> Any:
    return fragment["id"] if fragment["index"] is None else fragment["index"]


def _fragments(message: AIMessage) -> list[dict[str, Any]]:
    """The fragments of tool calls in a message; whole calls if the model cannot stream."""
    fragments = getattr(message, "tool_call_chunks", None)
    if fragments is not None:
        return list(fragments)
    return [
        {
            "index": position,
            "id": call["id"],
            "name": call["function"]["name"],
            "args": call["function"]["arguments"],
        }
        for position, call in enumerate(_calls(message))
    ]


def _call_delta(place: int, name: str, id_: str) -> dict[str, Any]:
    function = {"name": name, "arguments": ""}
    return {"index": place, "id": id_, "type": "function", "function": function}


def _calls(message: AIMessage) -> list[dict[str, Any]]:
    calls = [
        (call["id"], call["name"], json.dumps(call["args"], ensure_ascii=False))
        for call in message.tool_calls
    ]
    calls += [
        (call["id"], call["name"] or "", call["args"] or "") for call in message.invalid_tool_calls
    ]
    return [
        {
            "id": id_ or _call_id(),
            "type": "function",
            "function": {"name": name, "arguments": arguments},
        }
        for id_, name, arguments in calls
    ]


def _call_id() -> str:
    return f"call_{uuid.uuid4().hex[:24]}"


def _reasoning(message: AIMessage) -> str:
    reasoning = message.additional_kwargs.get("reasoning_content")
    texts = [reasoning] if isinstance(reasoning, str) else []
    for block in message.content if isinstance(message.content, list) else []:
        if isinstance(block, dict) and block.get("type") in ("thinking", "reasoning"):
            text = block.get(block["type"])
            texts += [text] if isinstance(text, str) else []
    return "".join(texts)


def _reason(message: AIMessage) -> str | None:
    reasons = (message.response_metadata.get(key) for key in REASON_KEYS)
    return next((reason for reason in reasons if isinstance(reason, str) and reason), None)


def _finish_reason(reason: str | None, calls: bool) -> str:
    known = FINISH_REASONS.get((reason or "").lower(), "stop")
    return "tool_calls" if calls and known == "stop" else known


def _model_name(message: AIMessage) -> str | None:
    name = message.response_metadata.get("model_name") or message.response_metadata.get("model")
    return name if isinstance(name, str) else None


def _usage(usage: Any) -> dict[str, Any] | None:
    """LangChain's usage in OpenAI's terms. Both count cached tokens as part of the input."""
    if not usage:
        return None
    inputs, outputs = usage["input_tokens"], usage["output_tokens"]
    written: dict[str, Any] = {
        "prompt_tokens": inputs,
        "completion_tokens": outputs,
        "total_tokens": inputs + outputs,
    }
    read = usage.get("input_token_details", {})
    details = {
        "cached_tokens": read.get("cache_read"),
        "cache_write_tokens": read.get("cache_creation"),
    }
    if details := {name: count for name, count in details.items() if count is not None}:
        written["prompt_tokens_details"] = details
    reasoning = usage.get("output_token_details", {}).get("reasoning")
    if reasoning is not None:
        written["completion_tokens_details"] = {"reasoning_tokens": reasoning}
    return written


def _head(kind: str, model: str) -> dict[str, Any]:
    id_ = f"chatcmpl-{uuid.uuid4().hex}"
    return {"id": id_, "object": kind, "created": int(time.time()), "model": model}
