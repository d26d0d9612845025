"""The dialect of Anthropic's endpoints."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from flask import request

from webapp.admission import limits
from webapp.api.dialects.dialect import Body, cost_comment
from webapp.errors import (
    NotAllowed,
    NotAuthenticated,
    ProviderBusy,
    ProviderRefusedRequest,
    ProvidersUnavailable,
    UnsupportedParameter,
    ValidationError,
    WeirError,
)
from webapp.llm.messages import Chunk, FinalAnswer
from webapp.observability import request_context
from webapp.observability.request_context import RequestContext

VERSION_HEADER = "anthropic-version"
ID_HEADER = "request-id"
OVERLOADED = 529
MAX_WORDS = 1_000  # characters of what a provider says

# Anthropic's error types by status.
TYPES = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    OVERLOADED: "overloaded_error",
}

LAST_EVENT = "message_stop"
LAST = b'event: message_stop\ndata: {"type": "message_stop"}\n\n'
# Of nearly all events, the type is the first field.
TYPE = re.compile(r'\s*\{\s*"type"\s*:\s*"(\w+)"')
NAME = re.compile(r"[\w.:-]+")


class AnthropicDialect:
    """Implements Dialect."""

    def error(self, error: WeirError) -> WeirError:
        return NotAuthenticated(error.message) if isinstance(error, NotAllowed) else error

    def status(self, error: WeirError) -> int:
        if isinstance(error, ProviderBusy | ProvidersUnavailable):
            return OVERLOADED
        return 400 if type(error) is ValidationError else error.status

    def envelope(self, error: WeirError) -> Body:
        return _envelope(self, error, request_context.current().request_id)

    def headers(self) -> list[tuple[str, str]]:
        own = (ID_HEADER, request_context.current().request_id)
        return [own, *limits.anthropic_headers()]


ANTHROPIC = AnthropicDialect()


class AnthropicEvents:
    """Implements Events: the provider's events, unchanged. The last one waits for the cost."""

    ping = b'event: ping\ndata: {"type": "ping"}\n\n'

    def __init__(self) -> None:
        # While the request is there: streams are written after it.
        self._request_id = request_context.current().request_id
        self._held = b""
        self._stopped = False

    def chunk(self, chunk: Chunk) -> bytes:
        name = event_name(chunk.data)
        event = self._held + f"event: {name}\ndata: {chunk.data}\n\n".encode()
        self._held = b""
        if name == LAST_EVENT:
            event, self._held, self._stopped = b"", event, True
        return event

    def end(self, final: FinalAnswer, context: RequestContext) -> bytes:
        # A server may leave the last event out: without it, SDKs have no whole message.
        last = self._held if self._stopped else LAST
        return cost_comment(final) + last

    def error(self, error: WeirError) -> bytes:
        envelope = _envelope(ANTHROPIC, error, self._request_id)
        return f"event: error\ndata: {json.dumps(envelope)}\n\n".encode()


def is_asked_for() -> bool:
    """Whether the client of this request says that it speaks Anthropic's dialect."""
    return VERSION_HEADER in request.headers


def event_name(data: str) -> str:
    """The name of an event, which is its type."""
    found = TYPE.match(data)
    if found:
        return found[1]
    event = json.loads(data)
    name = event.get("type") if isinstance(event, dict) else None
    return name if isinstance(name, str) and NAME.fullmatch(name) else "message"


def _envelope(dialect: AnthropicDialect, error: WeirError, request_id: str) -> Body:
    status = dialect.status(error)
    kind = TYPES.get(status) or ("api_error" if status >= 500 else "invalid_request_error")
    told: Body = {"type": kind, "message": _message(error)}
    if error.details and "provider" in error.details:
        told["provider"] = error.details["provider"]
    if details := _details(error):
        told["details"] = details
    return {"type": "error", "error": told, "request_id": request_id}


def _details(error: WeirError) -> Mapping[str, Any] | None:
    """What Anthropic's clients act on: the SDKs go on without a thread that is refused."""
    if isinstance(error, UnsupportedParameter) and error.parameter == "thread":
        return {"error_code": "thread_unsupported_request", "unsupported": ["provider"]}
    told = (error.details or {}).get("anthropic")
    return told if isinstance(told, Mapping) else None


def _message(error: WeirError) -> str:
    """The message; it is the only place for what is wrong with a field.

    What a provider refused is told in its own words: agents find there what to do.
    """
    if isinstance(error, ProviderRefusedRequest) and error.provider_status != 403:
        return (error.provider_message or error.message)[:MAX_WORDS]
    if isinstance(error, ValidationError) and error.details:
        name, reasons = next(iter(error.details.items()))
        first = reasons[0] if isinstance(reasons, list) and reasons else reasons
        if isinstance(first, str):
            return f"{name}: {first}"
    return error.message
