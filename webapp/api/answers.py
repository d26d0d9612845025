"""Sends answers to the client, whole or streamed, and records them for logs and counters."""

from __future__ import annotations

import json
import logging
import select
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from flask import Response, g, request
from gevent.monkey import get_original

from webapp.admission import sessions
from webapp.admission.deferred import deferred
from webapp.admission.identity import Principal
from webapp.api import dialects
from webapp.api.cache_control import cache_use
from webapp.api.dialects.dialect import COST_HEADER, Body, Events, cost_text
from webapp.api.dialects.native import Describe, NativeEvents
from webapp.errors import ClientHungUp, InternalError, ShuttingDown, WeirError, forget_traceback
from webapp.llm.calls import BillingContext, CallOptions
from webapp.llm.messages import AnswerMetadata, Chunk, FinalAnswer, ModelRequest, StreamEvent
from webapp.llm.sessions import Session
from webapp.llm.subscription import Stream
from webapp.metering.request_log import cut
from webapp.observability import metrics, request_context
from webapp.observability.lifecycle import Lifecycle
from webapp.observability.redaction import redact_json, redact_stored
from webapp.observability.request_context import RequestContext
from webapp.services import services

PING_INTERVAL = 15.0  # seconds

log = logging.getLogger(__name__)


# The system's poll() with a timeout of 0 returns immediately. gevent's would set up a watcher.
real_poll = get_original("select", "poll")


class HTTPClientConnection:
    """The client of a request, seen through its socket."""

    def __init__(self, lifecycle: Lifecycle, connection: Any) -> None:
        self._lifecycle = lifecycle
        self._connection = connection

    def check(self) -> None:
        if self._lifecycle.grace_is_over:
            raise ShuttingDown
        if self._connection is not None and self._hung_up():
            raise ClientHungUp

    def _hung_up(self) -> bool:
        """Whether the client closed its side. Bytes of a further request do not count."""
        poll = real_poll()
        try:
            poll.register(self._connection.fileno(), select.POLLIN)
            return bool(poll.poll(0)) and not self._connection.recv(1, socket.MSG_PEEK)
        except (OSError, ValueError):
            return True


def call_options(
    model: str | None,
    body: Mapping[str, Any] = MappingProxyType({}),
    *,
    streamed: bool,
    counted: bool = True,
) -> CallOptions:
    """The options of this request, which names a model or none: its key, its client, its deadline,
    its Cache-Control, its session.

    Unless it is not `counted`, it counts as one of its session. Raises MalformedRequest and
    SessionLimitExceeded.
    """
    principal: Principal = g.principal
    context, parts = request_context.current(), services()
    context.asked_model = model
    settings = parts.settings
    job = deferred()
    session, billing, entered = Session(), billing_context(), True
    if job is None:
        session = sessions.of_request(body)
        if billed := sessions.billed(session):
            billing = replace(billing, session=billed)
        if not counted:
            sessions.check(session)
        elif not principal.stale:
            entered = sessions.enter(session)
    # No proxy waits for a job either.
    timeout = settings.stream_deadline if streamed or job else settings.plain_deadline
    connection = request.environ.get("gunicorn.socket")
    return CallOptions(
        client=job.client if job else HTTPClientConnection(parts.lifecycle, connection),
        billing=billing,
        deadline=time.monotonic() + timeout,
        cache=cache_use(),
        only_cached=principal.stale or not entered,
        session=session,
        allows_model=principal.allowance.allows_model,
        routed=context.routed,
        failed=context.call_failed,
    )


def billing_context() -> BillingContext:
    """The key, request and endpoint that provider calls of this request are billed to."""
    principal: Principal = g.principal
    context = request_context.current()
    endpoint = dialects.counted_endpoint(context.endpoint)
    if job := deferred():
        return principal.billing_of_line(context.request_id, endpoint, job.line)
    return principal.billing_context(context.request_id, endpoint)


def native(request: ModelRequest, describe: Describe) -> Any:
    """The answer of a native endpoint that makes one model request, whole or streamed."""
    gateway, options = services().gateway, _options_of(request)
    if request.stream:
        return stream(gateway.open(request, options), NativeEvents(describe))
    return answer(gateway.answer(request, options), describe)


def verbatim(request: ModelRequest, events: Events) -> Response:
    """The answer as the provider sent it, whole or streamed."""
    gateway, options = services().gateway, _options_of(request)
    if request.stream:
        return stream(gateway.open(request, options), events)
    final = gateway.answer(request, options)
    _record(request_context.current(), final)
    return Response(final.answer.body, mimetype="application/json", headers=_headers_of(final))


def _options_of(request: ModelRequest) -> CallOptions:
    keep_prompt(request.body)
    return call_options(request.model, request.body, streamed=request.stream)


def answer(final: FinalAnswer, describe: Describe) -> tuple[Body, int, dict[str, str]]:
    """The whole answer: body, status and headers."""
    context = request_context.current()
    _record(context, final)
    return describe(final, context), 200, _headers_of(final)


def stream(source: Stream, events: Events) -> Response:
    """The answer as server-sent events.

    Status and headers wait for the first chunk or the final error, at most STREAM_HEADERS_AFTER.
    """
    try:
        first = source.next(services().settings.stream_headers_after)
    except BaseException:
        source.close()
        raise
    if connection := request.environ.get("gunicorn.socket"):
        connection.stream_begins()
    context = request_context.current()
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    if isinstance(first, AnswerMetadata):
        headers |= _headers(first)
        _begun(context, first)
    sent = _written(source, first, events, context)
    response = Response(sent, mimetype="text/event-stream", headers=headers)
    # A generator that was never started does not run its `finally`, so the source is closed here.
    response.call_on_close(source.close)
    metrics.STREAMS.inc()
    response.call_on_close(metrics.STREAMS.dec)
    return response


def _written(
    source: Stream, event: StreamEvent | None, events: Events, context: RequestContext
) -> Iterator[bytes]:
    try:
        while not isinstance(event, FinalAnswer):
            if event is None:
                yield events.ping
            elif isinstance(event, Chunk):
                if written := events.chunk(event):
                    yield written
            else:
                _begun(context, event)
            event = source.next(PING_INTERVAL)
        _record(context, event)
        context.complete = True
        yield events.end(event, context)
    except GeneratorExit:
        context.error = ClientHungUp.__name__
        raise
    except Exception as error:  # noqa: BLE001 logged there
        # In a frame of its own: this one and the error would refer to each other.
        yield _failed(error, events, context)
    finally:
        source.close()


def _failed(error: Exception, events: Events, context: RequestContext) -> bytes:
    """The last events of a stream that failed."""
    known = error if isinstance(error, WeirError) else InternalError()
    if known is not error:
        log.error("A stream failed", exc_info=error, extra={"request_id": context.request_id})
    context.ended_with(known)
    forget_traceback(error)
    return events.error(known)


def _headers_of(final: FinalAnswer) -> dict[str, str]:
    """The headers of a whole answer, whose cost is known."""
    cost = cost_text(final)
    return _headers(final.metadata) | ({} if cost is None else {COST_HEADER: cost})


def _headers(metadata: AnswerMetadata) -> dict[str, str]:
    headers = {
        "X-Cache": str(metadata.cache),
        "X-Weir-Route": metadata.route,
        "X-Weir-Provider": metadata.provider,
        "X-Weir-Attempts": str(metadata.attempts),
    }
    if metadata.cache.from_cache:
        headers["Age"] = str(int(metadata.age))
    return headers


def keep_prompt(body: Mapping[str, Any]) -> None:
    """Record the prompt for the request log, if LOG_PROMPTS is on."""
    settings = services().settings
    if settings.log_prompts:
        context = request_context.current()
        # A stream records its answer outside of the request, where services() is not available.
        context.redacted = settings.log_redact
        prompt = json.dumps(dict(body), ensure_ascii=False)
        context.prompt = cut(redact_json(prompt, context.redacted))


def _begun(context: RequestContext, metadata: AnswerMetadata) -> None:
    """Record that a stream has begun, which may end before its FinalAnswer."""
    context.began_to_answer = context.began_to_answer or context.milliseconds / 1000
    context.routed(metadata.provider, metadata.model)


def _record(context: RequestContext, final: FinalAnswer) -> None:
    if context.prompt is not None:
        content, body = final.answer.content, final.answer.body
        context.answer = cut(
            redact_stored(content, context.redacted) or redact_json(body, context.redacted)
        )
    context.cache = str(final.metadata.cache)
    context.waited = final.metadata.waited
    context.routed(final.answer.provider, final.metadata.model or final.answer.model)
    context.answered_model = final.answer.model
    context.tokens = final.answer.usage.total_tokens
    context.cost_usd = final.cost_usd
    if final.is_free:
        context.saved_tokens = final.answer.usage.total_tokens
        context.saved_usd = final.answer.cost_usd or 0.0


def tail(final: FinalAnswer, context: RequestContext) -> Body:
    """The fields that /chat and /summarize end with."""
    usage = final.answer.usage
    return {
        "tokens_used": usage.total_tokens,
        "cached": final.cached,
        "model": final.answer.model,
        "provider": final.answer.provider,
        "usage": {
            "input_tokens": usage.input_tokens,
            "output_tokens": usage.output_tokens,
            "total_tokens": usage.total_tokens,
        },
        "cost_usd": final.cost_usd,
        "request_id": context.request_id,
    }
