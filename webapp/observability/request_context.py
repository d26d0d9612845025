"""The context of one request while it runs: for its log line, response headers and counters."""

from __future__ import annotations

import re
import time
import uuid
from dataclasses import dataclass, field
from typing import cast

from flask import g, has_app_context

from webapp.observability.redaction import Patterns
from webapp.observability.tracing import NO_SPAN, Span

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")


@dataclass(slots=True)
class RequestContext:
    """What is known about a request. `cost_usd` is None if unknown; `cache` is an X-Cache value.

    `failed` means that it ended with a server-side error, whatever status was sent before. `limit`
    is the limit that refused it. `waited` is the time (seconds) spent waiting for providers, None
    if unknown. `began_to_answer` is the time (seconds) until the first chunk of a stream. `prompt`
    and `answer` are None unless LOG_PROMPTS is on; `redacted` are the patterns to redact in them.
    """

    request_id: str
    method: str
    endpoint: str
    trace_id: str | None = None
    key_id: int | None = None
    api_key: str | None = None
    tier: str | None = None
    admitted: bool = False
    cache: str | None = None
    model: str | None = None
    provider: str | None = None
    tokens: int | None = None
    cost_usd: float | None = None
    saved_tokens: int = 0
    saved_usd: float = 0.0
    error: str | None = None
    limit: str | None = None
    waited: float | None = None
    began_to_answer: float | None = None
    span: Span = NO_SPAN
    prompt: str | None = None
    answer: str | None = None
    redacted: Patterns = ()
    failed: bool = False
    started: float = field(default_factory=time.perf_counter)

    @property
    def milliseconds(self) -> float:
        return (time.perf_counter() - self.started) * 1000


def begin(
    request_id: str | None, traceparent: str | None, method: str, path: str, span: Span = NO_SPAN
) -> RequestContext:
    """A new context, with the client's request id if that is well-formed."""
    if not request_id or not REQUEST_ID.fullmatch(request_id):
        request_id = str(uuid.uuid4())
    trace = TRACEPARENT.fullmatch(traceparent or "")
    trace_id = span.trace_id or (trace.group(1) if trace else None)
    return RequestContext(request_id, method, path, trace_id, span=span)


def current() -> RequestContext:
    """The context of the current request."""
    return cast(RequestContext, g.request_context)


def current_id() -> str | None:
    """The id of the current request, or None outside of requests."""
    context: RequestContext | None = g.get("request_context") if has_app_context() else None
    return context.request_id if context else None
