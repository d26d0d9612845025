"""The context of one request while it runs: for its log line, response headers and counters."""

from __future__ import annotations

import re
import time
import uuid
from dataclasses import dataclass, field
from typing import Any, cast

from flask import g, has_app_context

from webapp.errors import WeirError
from webapp.llm.calls import Settlement
from webapp.observability.redaction import Patterns
from webapp.observability.refusals import limit_of
from webapp.observability.tracing import NO_SPAN, Span

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")

# Of the provider calls that failed, a request's line has this many: a long summary makes hundreds.
MAX_ATTEMPTS = 10


@dataclass(slots=True)
class RequestContext:
    """What is known about a request. `cost_usd` is None if unknown; `cache` is an X-Cache value.

    `client` is its User-Agent. `replayed` means that it got the stored answer of an earlier request
    with its Idempotency-Key. `failed` means that it ended with a server-side error, whatever
    status was sent before, and `complete` that what is sent next is the end of a stream that
    succeeded. `limit` is the limit that refused it, `limited` whether it counts against its key's
    limits. `model` is that of the target, `asked_model` what the client named and `answered_model`
    what the provider called it. `attempts` are the latest provider calls that failed, whatever
    became of the request. `waited` is the time (seconds) spent waiting for providers, None
    if unknown. `began_to_answer` is the time (seconds) until the first chunk of a stream. `prompt`
    and `answer` are None unless LOG_PROMPTS is on; `redacted` are the patterns to redact in them.
    """

    request_id: str
    method: str
    endpoint: str
    trace_id: str | None = None
    client: str | None = None
    key_id: int | None = None
    api_key: str | None = None
    tier: str | None = None
    limited: bool = False
    admitted: bool = False
    cache: str | None = None
    replayed: bool = False
    model: str | None = None
    provider: str | None = None
    asked_model: str | None = None
    answered_model: str | None = None
    tokens: int | None = None
    cost_usd: float | None = None
    saved_tokens: int = 0
    saved_usd: float = 0.0
    error: str | None = None
    limit: str | None = None
    attempts: list[dict[str, Any]] = field(default_factory=list)
    waited: float | None = None
    began_to_answer: float | None = None
    span: Span = NO_SPAN
    prompt: str | None = None
    answer: str | None = None
    redacted: Patterns = ()
    failed: bool = False
    complete: bool = False
    started: float = field(default_factory=time.perf_counter)

    @property
    def milliseconds(self) -> float:
        return (time.perf_counter() - self.started) * 1000

    @property
    def routed_model(self) -> str | None:
        """The model of the target; what the client named where there is no target."""
        return self.model or self.asked_model

    def routed(self, provider: str, model: str | None) -> None:
        """Note the target that is tried for this request."""
        self.provider, self.model = provider, model

    def call_failed(self, target: str, settlement: Settlement) -> None:
        """Note a provider call that failed."""
        self.attempts.append(
            {
                "target": target,
                "state": str(settlement.state),
                "error": settlement.error,
                "status": settlement.provider_status,
                "message": settlement.provider_message,
            }
        )
        del self.attempts[:-MAX_ATTEMPTS]

    def ended_with(self, error: WeirError) -> None:
        """Note the error that this request ends with."""
        self.error, self.failed = error.name, error.status >= 500
        self.limit = limit_of(error)


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
