"""Translates chat completions to answers of Anthropic's Messages, whole and as events.

Reasoning becomes a block of thinking whose signature is empty where the server sent none: such a
block is not sent to a provider again.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from webapp import json_codec
from webapp.llm.messages import Answer, Usage
from webapp.providers.answers import text_of
from webapp.providers.translation.usage import to_message_usage

STOP_REASONS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}
INVALID_ARGUMENTS = "invalid_arguments"  # the input of a call whose arguments are no object


def to_message(answer: Answer, model: str, names: Mapping[str, str]) -> str:
    """The JSON of a message. Of a chat.completion, only its first choice counts.

    `names` are those of tools that the chat completion has under others.
    """
    body = json.loads(answer.body)
    choice = body["choices"][0]
    said = choice.get("message") or {}
    content = _thoughts(said)
    if words := text_of(said):
        content.append({"type": "text", "text": words})
    calls = [call for call in said.get("tool_calls") or [] if isinstance(call, dict)]
    for call in calls:
        function = call["function"]
        content.append(
            {
                "type": "tool_use",
                "id": call.get("id") or _id("toolu"),
                "name": names.get(function["name"], function["name"]),
                "input": _input(function.get("arguments")),
            }
        )
    reason = _stop_reason(choice.get("finish_reason"), said, calls=bool(calls))
    usage = to_message_usage(body.get("usage"), body.get("service_tier"), answer.usage)
    message = _head(body, model) | {
        "content": content,
        "stop_reason": reason,
        "stop_sequence": None,
        "usage": usage,
    }
    return json.dumps(message)


class EventWriter:
    """Writes the chunks of one stream as events of Messages.

    Content comes in blocks, one at a time, so each other kind of content closes the last block.
    `estimate` returns the tokens of the input: clients show those of the first event meanwhile.
    `names` are those of tools that the chunks have under others.
    """

    def __init__(self, model: str, estimate: Callable[[], int], names: Mapping[str, str]) -> None:
        self._model = model
        self._estimate = estimate
        self._names = names
        self._begun = False
        self._blocks = -1  # the index of the latest block
        self._open: str | int | None = None  # its kind, or the number of its call
        self._ids: dict[int, Any] = {}  # the ids of all calls, by their numbers
        self._numbers: dict[Any, int] = {}  # of the latest call with each index
        self._latest: int | None = None
        self._waiting: dict[Any, tuple[dict[str, Any], list[str]]] = {}
        self._refused = False
        self._reason: Any = None
        self._usage: Any = None
        self._tier: Any = None

    def take(self, data: str) -> list[str]:
        """The events that a chunk becomes."""
        chunk = json_codec.loads(data)
        self._usage = chunk.get("usage") or self._usage
        self._tier = chunk.get("service_tier") or self._tier
        events = [] if self._begun else [self._start(chunk)]
        choices = [one for one in chunk.get("choices") or [] if isinstance(one, dict)]
        for choice in choices:
            if (choice.get("index") or 0) == 0:
                events += self._delta(choice.get("delta") or {})
                self._reason = choice.get("finish_reason") or self._reason
        return [json.dumps(event) for event in events]

    def end(self, usage: Usage) -> list[str]:
        """The events after the last chunk."""
        said = {"refusal": self._refused}
        delta = {
            "stop_reason": _stop_reason(self._reason, said, calls=bool(self._ids)),
            "stop_sequence": None,
        }
        told = to_message_usage(self._usage, self._tier, usage)
        events = [
            *([] if self._begun else [self._start({})]),
            *self._close(),
            {"type": "message_delta", "delta": delta, "usage": told},
            {"type": "message_stop"},
        ]
        return [json.dumps(event) for event in events]

    def _start(self, chunk: Mapping[str, Any]) -> dict[str, Any]:
        self._begun = True
        usage = to_message_usage(None, self._tier, Usage(self._estimate(), 0))
        message = _head(chunk, self._model) | {
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": usage,
        }
        return {"type": "message_start", "message": message}

    def _delta(self, delta: Mapping[str, Any]) -> list[dict[str, Any]]:
        events: list[dict[str, Any]] = []
        if blocks := _signed(delta):
            # The thinking itself came before, without its signature.
            for block in blocks:
                events += self._signature(block)
        elif reasoning := _reasoning(delta):
            thinking = {"type": "thinking", "thinking": "", "signature": ""}
            events += self._in_block("thinking", thinking)
            events.append(self._piece({"type": "thinking_delta", "thinking": reasoning}))
        # Between the fragments of a call, some models write blanks.
        if (text := text_of(dict(delta))) and (text.strip() or self._open not in self._ids):
            self._refused = self._refused or not delta.get("content")
            events += self._in_block("text", {"type": "text", "text": ""})
            events.append(self._piece({"type": "text_delta", "text": text}))
        for call in delta.get("tool_calls") or []:
            events += self._call(call)
        return events

    def _signature(self, block: Mapping[str, Any]) -> list[dict[str, Any]]:
        if block.get("type") == "redacted_thinking":
            redacted = {"type": "redacted_thinking", "data": block.get("data")}
            return [*self._in_block("redacted_thinking", redacted), *self._close()]
        events: list[dict[str, Any]] = []
        if self._open != "thinking":
            thinking = {"type": "thinking", "thinking": "", "signature": ""}
            events += self._in_block("thinking", thinking)
            if text := block.get("thinking"):
                events.append(self._piece({"type": "thinking_delta", "thinking": text}))
        signature = {"type": "signature_delta", "signature": block.get("signature") or ""}
        return [*events, self._piece(signature), *self._close()]

    def _call(self, call: Mapping[str, Any]) -> list[dict[str, Any]]:
        """A fragment of a call. Its first names the tool; servers may leave out the index.

        Fragments of parallel calls may come in turns: the first call is told as it comes, the
        others once that one is over.
        """
        function = call.get("function") or {}
        name, arguments = function.get("name"), function.get("arguments") or ""
        if not isinstance(arguments, str):
            arguments = json.dumps(arguments, ensure_ascii=False)
        number = self._number(call.get("index"), call.get("id"), name)
        self._latest = number
        events: list[dict[str, Any]] = []
        if name and number is not None and number not in self._ids:
            self._ids[number] = call.get("id")
            id_ = call.get("id") or _id("toolu")
            name = self._names.get(name, name)
            block = {"type": "tool_use", "id": id_, "name": name, "input": {}}
            if self._open in self._ids:
                self._waiting[number] = (block, [])
            else:
                events = self._in_block(number, block)
        if not arguments:
            return events
        if number in self._waiting:
            self._waiting[number][1].append(arguments)
            return events
        if number is None or number != self._open:
            raise ValueError("a fragment of a call that is over, or never began")
        return [*events, self._piece({"type": "input_json_delta", "partial_json": arguments})]

    def _number(self, index: Any, id_: Any, name: Any) -> int | None:
        """The number of a fragment's call. Some servers give all calls one index, or none."""
        known = self._latest if index is None else self._numbers.get(index)
        goes_on = known is not None and (id_ == self._ids[known] if id_ else index is not None)
        if goes_on or not name:
            return known
        number = len(self._ids)
        if index is not None:
            self._numbers[index] = number
        return number

    def _in_block(self, kind: str | int, block: dict[str, Any]) -> list[dict[str, Any]]:
        """Open a block of this kind, if none is."""
        if self._open == kind:
            return []
        closed = self._close()
        self._blocks, self._open = self._blocks + 1, kind
        start = {"type": "content_block_start", "index": self._blocks, "content_block": block}
        return [*closed, start]

    def _close(self) -> list[dict[str, Any]]:
        """Close the open block, and tell the calls that have waited for that."""
        if self._open is None:
            return []
        self._open = None
        events: list[dict[str, Any]] = [{"type": "content_block_stop", "index": self._blocks}]
        waiting, self._waiting = self._waiting, {}
        for number, (block, arguments) in waiting.items():
            events += self._in_block(number, block)
            if arguments:
                delta = {"type": "input_json_delta", "partial_json": "".join(arguments)}
                events.append(self._piece(delta))
            events += self._close()
        return events

    def _piece(self, delta: dict[str, Any]) -> dict[str, Any]:
        return {"type": "content_block_delta", "index": self._blocks, "delta": delta}


def _head(body: Mapping[str, Any], model: str) -> dict[str, Any]:
    id_ = body.get("id")
    return {
        "id": id_ if isinstance(id_, str) and id_ else _id("msg"),
        "type": "message",
        "role": "assistant",
        "model": body.get("model") or model,
    }


def _id(kind: str) -> str:
    return f"{kind}_{uuid.uuid4().hex[:24]}"


def _thoughts(said: Mapping[str, Any]) -> list[dict[str, Any]]:
    if blocks := _signed(said):
        return blocks
    reasoning = _reasoning(said)
    return [{"type": "thinking", "thinking": reasoning, "signature": ""}] if reasoning else []


def _signed(said: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Thinking as some servers pass Anthropic's on."""
    blocks = said.get("thinking_blocks")
    return [
        {name: value for name, value in block.items() if name != "index"}
        for block in (blocks if isinstance(blocks, list) else [])
        if isinstance(block, dict)
    ]


def _reasoning(said: Mapping[str, Any]) -> str:
    texts = (said.get(name) for name in ("reasoning_content", "reasoning"))
    return next((text for text in texts if isinstance(text, str) and text), "")


def _input(arguments: Any) -> dict[str, Any]:
    """The arguments of a call, which models may get wrong: then the client is shown their text."""
    if isinstance(arguments, dict):
        return arguments
    try:
        value = json.loads(arguments or "{}")
    except (TypeError, ValueError):
        value = None
    return value if isinstance(value, dict) else {INVALID_ARGUMENTS: arguments}


def _stop_reason(reason: Any, said: Mapping[str, Any], *, calls: bool) -> str:
    known = STOP_REASONS.get(reason, "end_turn") if isinstance(reason, str) else "end_turn"
    if known != "end_turn":
        return known
    if calls:
        return "tool_use"
    return "refusal" if said.get("refusal") else known
