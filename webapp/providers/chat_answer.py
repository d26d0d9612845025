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
# Anthropic's counts of the input, which add up to all of it.
INPUT_COUNTS = (
    "input_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
    "cache_creation",
)
CACHE_TIMES = ("ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens")
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
    counts = _merged({}, message.response_metadata.get("usage")) if _is_claude(message) else {}
    if usage := _usage_of_claude(counts) or _usage(message.usage_metadata):
        body["usage"] = usage
    return json.dumps(body | _tier(counts))


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
        self._counts: dict[str, Any] = {}
        self._estimate = estimate

    def take(self, message: AIMessage) -> Iterator[str]:
        from langchain_core.messages.ai import add_usage

        self._head["model"] = _model_name(message) or self._head["model"]
        self._reason = _reason(message) or self._reason
        for counts in message.response_metadata.get("usage_events") or ():
            # message_start, whose usage LangChain leaves out, counts only the output until then.
            # With none at all, Weir counts the output itself.
            hidden = () if message.usage_metadata else ("output_tokens",)
            given = {name: count for name, count in counts.items() if name not in hidden}
            self._counts = _merged(self._counts, given)
            self._head |= _tier(self._counts)
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
        if usage := _usage_of_claude(self._counts) or _usage(self._usage):
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
    inputs = usage.get("input_token_details", {})
    outputs = usage.get("output_token_details", {})
    return _written(
        usage["input_tokens"],
        usage["output_tokens"],
        inputs.get("cache_read"),
        inputs.get("cache_creation"),
        outputs.get("reasoning"),
    )


def _usage_of_claude(counts: Mapping[str, Any]) -> dict[str, Any] | None:
    """Anthropic's usage in OpenAI's terms. Anthropic's input is without the cached tokens.

    None where it counts no input: that is estimated.
    """
    if not _input(counts):
        return None
    by_time = _by_time(counts)
    outputs = counts.get("output_tokens_details")
    written = _written(
        _input(counts),
        _count(counts, "output_tokens"),
        _count(counts, "cache_read_input_tokens"),
        _cache_writes(counts),
        outputs.get("thinking_tokens") if isinstance(outputs, Mapping) else None,
    )
    if by_time:
        written["prompt_tokens_details"]["cache_creation_token_details"] = by_time
    return written


def _written(
    inputs: int, outputs: int, cached: int | None, cache_writes: int | None, reasoning: int | None
) -> dict[str, Any]:
    written: dict[str, Any] = {
        "prompt_tokens": inputs,
        "completion_tokens": outputs,
        "total_tokens": inputs + outputs,
    }
    details = {"cached_tokens": cached, "cache_write_tokens": cache_writes}
    if details := {name: count for name, count in details.items() if count is not None}:
        written["prompt_tokens_details"] = details
    if reasoning is not None:
        written["completion_tokens_details"] = {"reasoning_tokens": reasoning}
    return written


def _merged(earlier: dict[str, Any], later: Any) -> dict[str, Any]:
    """Anthropic's counts after an event of a stream.

    They are cumulative, but an event may lack those of the input, or count it as 0, or count what
    was first plain input as read from the cache.
    """
    given = {k: v for k, v in later.items() if v is not None} if isinstance(later, Mapping) else {}
    merged = earlier | given
    if _input(merged) < _input(earlier):
        merged |= {name: earlier.get(name) for name in INPUT_COUNTS}
    if _count(merged, "output_tokens") < _count(earlier, "output_tokens"):
        merged["output_tokens"] = earlier["output_tokens"]
    return merged


def _input(counts: Mapping[str, Any]) -> int:
    plain, read = _count(counts, "input_tokens"), _count(counts, "cache_read_input_tokens")
    return plain + read + _cache_writes(counts)


def _cache_writes(counts: Mapping[str, Any]) -> int:
    return max(_count(counts, "cache_creation_input_tokens"), sum(_by_time(counts).values()))


def _by_time(counts: Mapping[str, Any]) -> dict[str, int]:
    """The tokens that were written to the cache, by how long it keeps them."""
    given = counts.get("cache_creation")
    return {name: _count(given, name) for name in CACHE_TIMES} if isinstance(given, Mapping) else {}


def _count(counts: Mapping[str, Any], name: str) -> int:
    count = counts.get(name)
    return count if isinstance(count, int) and count > 0 else 0


def _tier(counts: Mapping[str, Any]) -> dict[str, str]:
    """The service tier in OpenAI's field, whose word for the standard one is `default`."""
    tier = counts.get("service_tier")
    if not isinstance(tier, str):
        return {}
    return {"service_tier": "default" if tier == "standard" else tier}


def _is_claude(message: AIMessage) -> bool:
    return message.response_metadata.get("model_provider") == "anthropic"


def _head(kind: str, model: str) -> dict[str, Any]:
    id_ = f"chatcmpl-{uuid.uuid4().hex}"
    return {"id": id_, "object": kind, "created": int(time.time()), "model": model}
