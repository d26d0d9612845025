"""The stand-in's answers in Anthropic's Messages API, whole and as events.

Request errors, content blocks, tool use and stop reasons follow docs.anthropic.com. Tools are
called as described in `tests.support.completions`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

from tests.support.completions import (
    ARGUMENTS_PIECE,
    DIRECTIVE,
    ECHOED,
    calls_of,
    content_of,
    fitting,
    pieces_of,
    text_of,
)
from tests.support.faults import Fault

MODELS = ("stand-in-claude", "stand-in-claude-small")
TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    529: "overloaded_error",
}
FIELDS = {
    "cache_control", "context_management", "output_config",
    "model", "max_tokens", "messages", "system", "stop_sequences", "stream", "temperature", "top_p",
    "top_k", "tools", "tool_choice", "metadata", "thinking", "service_tier",
}  # fmt: skip

# What the SDKs go on without a thread for.
THREAD_REFUSED = {"error_code": "thread_unsupported_request", "unsupported": ["stand_in"]}
COUNT = ("POST", "messages/count_tokens")
# What blocks are without before their deltas.
EMPTY: dict[str, dict[str, Any]] = {
    "tool_use": {"input": {}},
    "thinking": {"thinking": "", "signature": ""},
}
THOUGHT = {"type": "thinking", "thinking": "Let me think. ", "signature": "c2lnbmVk"}

Answer = tuple[int, Any]


def what_is_wrong(
    endpoint: tuple[str, str], headers: Mapping[str, str], body: Any
) -> Answer | None:
    """The error response for an invalid request, None for a valid one."""
    keyed = "x-api-key" in headers or headers.get("authorization", "").startswith("Bearer ")
    if not keyed or "anthropic-version" not in headers:
        return 401, error(401, "A key and the anthropic-version header are required")
    if endpoint == ("GET", "models") or endpoint[1].startswith("messages/batches"):
        return None
    if endpoint not in {("POST", "messages"), COUNT}:
        return 404, error(404, "Not found")
    if endpoint == COUNT and isinstance(body, dict):
        body = {"max_tokens": 1, **body}
    if endpoint != COUNT and isinstance(body, dict) and body.get("thread"):
        refused = error(400, "thread: not possible with this request")
        refused["error"]["details"] = THREAD_REFUSED
        return 400, refused
    wrong = _what_is_wrong_with(body)
    return (400, error(400, wrong)) if wrong else None


def _what_is_wrong_with(body: Any) -> str | None:
    if not isinstance(body, dict):
        return "The request body is not valid JSON"
    unknown = body.keys() - FIELDS
    if unknown:
        return f"{min(unknown)}: Extra inputs are not permitted"
    if not isinstance(body.get("model"), str):
        return "model: Field required"
    if not isinstance(body.get("max_tokens"), int):
        return "max_tokens: Field required"
    if not 0 <= body.get("temperature", 0) <= 1:
        return "temperature: range: 0..1"
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        return "messages: at least one message is required"
    roles = [message.get("role") for message in messages]
    if roles[0] != "user" or not set(roles) <= {"user", "assistant"}:
        return "messages: first message must use the user role"
    if any(one == other for one, other in pairwise(roles)):
        return "messages: roles must alternate"
    return _what_is_wrong_with_thinking(body)


def _what_is_wrong_with_thinking(body: dict[str, Any]) -> str | None:
    """Thinking comes back as it was signed, and before the calls of tools that it led to."""
    for position, message in enumerate(body["messages"]):
        path = f"messages.{position}.content.0"
        thoughts = _parts(message, "thinking")
        if any(thought != THOUGHT for thought in thoughts):
            return f"{path}: Invalid `signature` in `thinking` block"
        if _thinks(body) and _parts(message, "tool_use") and not thoughts:
            return f"{path}.type: Expected `thinking`, but found `tool_use`"
    return None


def _thinks(body: dict[str, Any]) -> bool:
    return (body.get("thinking") or {}).get("type") in {"enabled", "adaptive"}


def error(status: int, message: str, code: str | None = None) -> dict[str, Any]:
    """Anthropic's envelope."""
    if code == "model_not_found":  # Anthropic says this in the message
        code, message = None, "model: no such one"
    kind = code or TYPES.get(status, "api_error")
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_1"}


def models() -> dict[str, Any]:
    data = [
        {
            "type": "model",
            "id": name,
            "display_name": name.title(),
            "created_at": "2025-02-19T00:00:00Z",
        }
        for name in MODELS
    ]
    return {"data": data, "has_more": False, "first_id": MODELS[0], "last_id": MODELS[-1]}


def count(body: dict[str, Any]) -> dict[str, Any]:
    """The tokens of a request: one for each word of its messages."""
    return {"input_tokens": sum(len(text_of(message).split()) for message in body["messages"])}


class Reply:
    """The answer to one request, whole or in events."""

    def __init__(self, body: dict[str, Any], fault: Fault) -> None:
        self._fault = fault
        self._model = body["model"]
        self._id = (
            "msg_" + hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:24]
        )
        self._calls = _tool_uses(body, self._id)
        self._thoughts = [THOUGHT] if _thinks(body) else []
        self._text, self._stop_reason, self._stop_sequence = _words(body, fault)
        if self._calls:
            self._stop_reason = "tool_use"
        given = sum(len(text_of(message).split()) for message in body["messages"])
        self.usage = {
            "input_tokens": given,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 2,
            "output_tokens": len(self._text.split()) or 1,
        }

    def whole(self) -> dict[str, Any]:
        content = self._thoughts + (self._calls or [{"type": "text", "text": self._text}])
        return self._message(content, self._stop_reason, self.usage)

    def events(self) -> Iterator[dict[str, Any]]:
        begun = self.usage | {"output_tokens": 1}
        yield {"type": "message_start", "message": self._message([], None, begun)}
        yield {"type": "ping"}
        blocks = self._thoughts + (self._calls or [{"type": "text", "text": ""}])
        for index, block in enumerate(blocks):
            opened = block | EMPTY.get(block["type"], {})
            yield {"type": "content_block_start", "index": index, "content_block": opened}
            for delta in self._deltas(block):
                yield {"type": "content_block_delta", "index": index, "delta": delta}
            yield {"type": "content_block_stop", "index": index}
        if self._fault.no_finish:
            return
        stop = {"stop_reason": self._stop_reason, "stop_sequence": self._stop_sequence}
        # The whole usage again: its counts are cumulative.
        yield {"type": "message_delta", "delta": stop, "usage": self.usage}
        yield {"type": "message_stop"}

    def _deltas(self, block: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if block["type"] == "thinking":
            for word in block["thinking"].split():
                yield {"type": "thinking_delta", "thinking": f"{word} "}
            yield {"type": "signature_delta", "signature": block["signature"]}
            return
        if block["type"] == "text":
            for piece in pieces_of(self._text, self._fault):
                yield {"type": "text_delta", "text": piece}
            return
        arguments = json.dumps(block["input"])
        for start in range(0, len(arguments), ARGUMENTS_PIECE):
            fragment = arguments[start : start + ARGUMENTS_PIECE]
            yield {"type": "input_json_delta", "partial_json": fragment}

    def _message(
        self, content: list[dict[str, Any]], stop_reason: str | None, usage: dict[str, int]
    ) -> dict[str, Any]:
        return {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": content,
            "stop_reason": stop_reason,
            "stop_sequence": self._stop_sequence if stop_reason else None,
            "usage": usage,
        }


def _words(body: dict[str, Any], fault: Fault) -> tuple[str, str, str | None]:
    """The text, the stop reason, and the stop sequence if that is the reason."""
    text = _text(body, fault)
    for sequence in body.get("stop_sequences") or []:
        before, found, _ = text.partition(sequence)
        if found:
            return before, "stop_sequence", sequence
    words = text.split()
    if len(words) > body["max_tokens"]:
        return " ".join(words[: body["max_tokens"]]), "max_tokens", None
    return text, "end_turn", None


def _text(body: dict[str, Any], fault: Fault) -> str:
    results = [_result(part) for part in _parts(body["messages"][-1], "tool_result")]
    if results:
        return f"The tool says: {' '.join(results)[:ECHOED]}"
    if wanted := (body.get("output_config") or {}).get("format"):
        return json.dumps(fitting(wanted["schema"]))
    system = body.get("system") or ""
    if not isinstance(system, str):
        system = " ".join(part["text"] for part in system)
    said = content_of({"messages": body["messages"]}, fault)
    return f"system: {system} {said}" if system else said


def _tool_uses(body: dict[str, Any], seed: str) -> list[dict[str, Any]]:
    schemas = {tool["name"]: tool.get("input_schema", {}) for tool in body.get("tools") or []}
    chosen = (body.get("tool_choice") or {}).get("type")
    last = body["messages"][-1]
    if not schemas or chosen == "none" or _parts(last, "tool_result"):
        return []
    said = DIRECTIVE.sub("", text_of(last))
    calls = calls_of(schemas, said)
    if chosen == "tool":
        wanted = body["tool_choice"]["name"]
        calls = [(wanted, fitting(schemas[wanted]))]
    return [
        {
            "type": "tool_use",
            "id": f"toolu_{index}_{seed[-8:]}",
            "name": name,
            "input": arguments,
        }
        for index, (name, arguments) in enumerate(calls)
    ]


def _parts(message: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    content = message.get("content")
    return (
        [part for part in content if part.get("type") == kind] if isinstance(content, list) else []
    )


def _result(part: dict[str, Any]) -> str:
    content = part.get("content") or ""
    return content if isinstance(content, str) else " ".join(one.get("text", "") for one in content)
