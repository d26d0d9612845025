"""The events of OpenAI's Responses. All else is in the dialect of OpenAI's endpoints."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from typing import Any

from webapp.api.dialects.dialect import Body, cost_comment
from webapp.api.dialects.openai import OPENAI
from webapp.errors import (
    BudgetExceeded,
    ProviderBusy,
    ProviderRefusedRequest,
    ProvidersUnavailable,
    WeirError,
)
from webapp.llm.messages import Chunk, FinalAnswer
from webapp.observability import request_context
from webapp.observability.request_context import RequestContext

FIRST_EVENT, FAILED = "response.created", "response.failed"
LAST_EVENTS = {"response.completed", "response.incomplete"}
# Of nearly all events, the type is the first field.
TYPE = re.compile(r'\s*\{\s*"type"\s*:\s*"([\w.]+)"')
NAME = re.compile(r"[\w.]+")
# What of a request is in its response, and what that has where the request does not say.
ECHOED: dict[str, Any] = {
    "instructions": None,
    "max_output_tokens": None,
    "metadata": {},
    "model": "",
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "reasoning": None,
    "store": True,
    "temperature": None,
    "text": None,
    "tool_choice": "auto",
    "tools": [],
    "top_p": None,
    "truncation": "disabled",
}


class ResponseEvents:
    """Implements Events: the provider's events, unchanged. The last one waits for the cost.

    A stream that fails ends with an event that has the response as it was when it began. `body` and
    `model` are the request's.
    """

    ping = b": ping\n\n"

    def __init__(self, body: Mapping[str, Any], model: str | None) -> None:
        # While the request is there: streams are written after it.
        self._request_id = request_context.current().request_id
        self._body, self._model = body, model
        self._first = self._latest = ""
        self._held = b""

    def chunk(self, chunk: Chunk) -> bytes:
        self._latest = chunk.data
        name = event_name(chunk.data)
        if name == FIRST_EVENT:
            self._first = chunk.data
        event = self._held + _event(name, chunk.data)
        self._held = b""
        if name in LAST_EVENTS:
            event, self._held = b"", event
        return event

    def end(self, final: FinalAnswer, context: RequestContext) -> bytes:
        return cost_comment(final) + self._held

    def error(self, error: WeirError) -> bytes:
        envelope = OPENAI.envelope(error)["error"]
        told = {"code": _code(error, envelope["code"]), "message": envelope["message"]}
        number = _field(self._latest, "sequence_number")
        number = number + 1 if isinstance(number, int) else 0
        begun, opening = _field(self._first, "response"), b""
        if not isinstance(begun, dict):
            begun = self._unbegun()
            # The SDKs want a beginning first.
            opening = _written(FIRST_EVENT, number, begun)
            number += 1
        failed = {**begun, "status": "failed", "error": told}
        return opening + _written(FAILED, number, failed)

    def _unbegun(self) -> Body:
        """The response of a request that no provider began to answer."""
        echoed = {name: self._body.get(name, default) for name, default in ECHOED.items()}
        return {
            "id": f"resp_{self._request_id}",
            "object": "response",
            "created_at": int(time.time()),
            "status": "in_progress",
            "error": None,
            "incomplete_details": None,
            "output": [],
            "usage": None,
            **echoed,
            "model": self._model or "",
        }


def event_name(data: str) -> str:
    """The name of an event, which is its type."""
    found = TYPE.match(data)
    if found:
        return found[1]
    name = _field(data, "type")
    return name if isinstance(name, str) and NAME.fullmatch(name) else "message"


def _code(error: WeirError, named: str) -> str:
    """The code of an error within a response: one of OpenAI's, by which clients decide whether to
    try again."""
    if isinstance(error, BudgetExceeded):
        return "insufficient_quota"
    if isinstance(error, ProviderBusy | ProvidersUnavailable):
        return "rate_limit_exceeded"
    if isinstance(error, ProviderRefusedRequest):
        told = (error.details or {}).get("code")
        return told if isinstance(told, str) else "invalid_prompt"
    return "server_error" if error.status >= 500 else named


def _written(name: str, number: int, response: Body) -> bytes:
    data = {"type": name, "sequence_number": number, "response": response}
    return _event(name, json.dumps(data))


def _event(name: str, data: str) -> bytes:
    return f"event: {name}\ndata: {data}\n\n".encode()


def _field(data: str, name: str) -> Any:
    """A field of an event; None if there is no event."""
    event = json.loads(data) if data else None
    return event.get(name) if isinstance(event, dict) else None
