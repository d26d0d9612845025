"""Carries a task's answer to the client, whole or streamed, and notes it for log and counters."""

from __future__ import annotations

import json
import logging
import select
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from flask import Response, g, request
from gevent.monkey import get_original

from webapp.api.errors import openai_envelope
from webapp.errors import ClientHungUp, InternalError, ShuttingDown, WeirError
from webapp.gate.identity import Principal
from webapp.llm.live import Stream
from webapp.llm.messages import ModelRequest, Origin, Part, Piece, Reply
from webapp.llm.ports import Payer, Terms
from webapp.metering.request_log import cut
from webapp.observability import metrics, record
from webapp.observability.lifecycle import Lifecycle
from webapp.observability.record import RequestRecord
from webapp.observability.redaction import redact_json, redact_kept
from webapp.services import services

# Under /v1 they are the same doors.
NATIVE = {"/v1/chat", "/v1/summarize", "/v1/generate"}
PING_EVERY = 15.0
PING = b": ping\n\n"
DONE = b"data: [DONE]\n\n"

Body = dict[str, Any]
Describe = Callable[[Reply, RequestRecord], Body]

log = logging.getLogger(__name__)


# gevent's own would set up a watcher; asked not to wait, the system's answers at once.
real_poll = get_original("select", "poll")


class HTTPCaller:
    """The client behind a request, as far as its socket tells."""

    def __init__(self, lifecycle: Lifecycle, connection: Any) -> None:
        self._lifecycle = lifecycle
        self._connection = connection

    def check(self) -> None:
        if self._lifecycle.grace_is_over:
            raise ShuttingDown
        if self._connection is not None and self._hung_up():
            raise ClientHungUp

    def _hung_up(self) -> bool:
        """Whether the client closed its side; bytes of a next request do not count."""
        poll = real_poll()
        try:
            poll.register(self._connection.fileno(), select.POLLIN)
            return bool(poll.poll(0)) and not self._connection.recv(1, socket.MSG_PEEK)
        except (OSError, ValueError):
            return True


def terms(*, streamed: bool) -> Terms:
    """The terms of this request: its principal, its client, its Cache-Control."""
    principal: Principal = g.principal
    settings = services().settings
    own_cache = settings.cache_scope == "key" or principal.allowance.own_cache
    control = request.cache_control
    bypass = bool(control.no_cache or control.no_store)
    patience = settings.stream_deadline if streamed else settings.plain_deadline
    return Terms(
        caller=HTTPCaller(services().lifecycle, request.environ.get("gunicorn.socket")),
        payer=payer(),
        deadline=time.monotonic() + patience,
        scope=principal.bucket if own_cache else None,
        read_cache=not bypass,
        write_cache=not control.no_store,
        max_age=control.max_age,
        only_cached=principal.stale,
        allows_model=principal.allowance.allows_model,
    )


def payer() -> Payer:
    """Who pays for what this request leads to."""
    principal: Principal = g.principal
    noted = record.current()
    native = noted.endpoint in NATIVE
    endpoint = noted.endpoint.removeprefix("/v1") if native else noted.endpoint
    return principal.payer(noted.request_id, endpoint)


class Dialect(Protocol):
    """How a door writes the events of a stream."""

    def piece(self, piece: Piece) -> bytes: ...

    def end(self, reply: Reply, noted: RequestRecord) -> bytes:
        """What comes before the last event."""
        ...

    def error(self, error: WeirError) -> Body: ...


class NativeDialect:
    """Events of the native doors: the text, at last what a plain answer holds."""

    def __init__(self, describe: Describe) -> None:
        self._describe = describe

    def piece(self, piece: Piece) -> bytes:
        # As event() writes it; of a text alone, json needs no encoder of its own.
        return f'data: {{"content": {json.dumps(piece.text)}}}\n\n'.encode()

    def end(self, reply: Reply, noted: RequestRecord) -> bytes:
        return event({"done": True, **self._describe(reply, noted)})

    def error(self, error: WeirError) -> Body:
        return {"error": {"error": error.name, "message": error.message}}


class OpenAIDialect:
    """Events of OpenAI's doors: the provider's chunks, as they are."""

    def piece(self, piece: Piece) -> bytes:
        return f"data: {piece.data}\n\n".encode()

    def end(self, reply: Reply, noted: RequestRecord) -> bytes:
        return b""

    def error(self, error: WeirError) -> Body:
        return openai_envelope(error)


def native(request: ModelRequest, describe: Describe) -> Any:
    """The answer of a native door that asks its model once, whole or streamed."""
    keep_prompt(request.body)
    gateway, asked_on = services().gateway, terms(streamed=request.stream)
    if request.stream:
        return stream(gateway.open(request, asked_on), NativeDialect(describe))
    return answer(gateway.answer(request, asked_on), describe)


def openai(request: ModelRequest) -> Response:
    """The answer of one of OpenAI's doors, whole or streamed."""
    keep_prompt(request.body)
    gateway, asked_on = services().gateway, terms(streamed=request.stream)
    if request.stream:
        return stream(gateway.open(request, asked_on), OpenAIDialect())
    return verbatim(gateway.answer(request, asked_on))


def answer(reply: Reply, describe: Describe) -> tuple[Body, int, dict[str, str]]:
    """The whole answer: its body, its status, its headers."""
    noted = record.current()
    _note(noted, reply)
    return describe(reply, noted), 200, _headers(reply.origin)


def verbatim(reply: Reply) -> Response:
    """The whole answer as the provider sent it."""
    _note(record.current(), reply)
    return Response(reply.answer.body, mimetype="application/json", headers=_headers(reply.origin))


def stream(parts: Stream, dialect: Dialect) -> Response:
    """The answer as server-sent events.

    Status and headers wait for the first piece or the final error, at most STREAM_HEADERS_AFTER.
    """
    try:
        first = parts.next(services().settings.stream_headers_after)
    except BaseException:
        parts.close()
        raise
    noted = record.current()
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    if isinstance(first, Origin):
        headers |= _headers(first)
        noted.began_to_answer = noted.milliseconds / 1000
    events = _events(parts, first, dialect, noted)
    response = Response(events, mimetype="text/event-stream", headers=headers)
    # Events that nobody began to read do not close what they read from.
    response.call_on_close(parts.close)
    metrics.STREAMS.inc()
    response.call_on_close(metrics.STREAMS.dec)
    return response


def _events(
    parts: Stream, part: Part | None, dialect: Dialect, noted: RequestRecord
) -> Iterator[bytes]:
    try:
        while not isinstance(part, Reply):
            if part is None:
                yield PING
            elif isinstance(part, Piece):
                yield dialect.piece(part)
            else:
                noted.began_to_answer = noted.began_to_answer or noted.milliseconds / 1000
            part = parts.next(PING_EVERY)
        _note(noted, part)
        yield dialect.end(part, noted) + DONE
    except GeneratorExit:
        noted.error = ClientHungUp.__name__
        raise
    except Exception as error:
        known = error if isinstance(error, WeirError) else InternalError()
        if known is not error:
            log.exception("A stream failed", extra={"request_id": noted.request_id})
        noted.error, noted.failed = known.name, known.status >= 500
        yield event(dialect.error(known)) + DONE
    finally:
        parts.close()


def event(data: Body) -> bytes:
    """A server-sent event with this data."""
    return f"data: {json.dumps(data)}\n\n".encode()


def _headers(origin: Origin) -> dict[str, str]:
    headers = {
        "X-Cache": str(origin.cache),
        "X-Weir-Route": origin.route,
        "X-Weir-Provider": origin.provider,
        "X-Weir-Attempts": str(origin.attempts),
    }
    if origin.cache.from_cache:
        headers["Age"] = str(int(origin.age))
    return headers


def keep_prompt(body: Mapping[str, Any]) -> None:
    """Take note of what was asked, where LOG_PROMPTS says so."""
    settings = services().settings
    if settings.log_prompts:
        noted = record.current()
        # A stream notes its answer when the settings are out of reach.
        noted.redacted = settings.log_redact
        asked = json.dumps(dict(body), ensure_ascii=False)
        noted.prompt = cut(redact_json(asked, noted.redacted))


def _note(noted: RequestRecord, reply: Reply) -> None:
    if noted.prompt is not None:
        said, body = reply.answer.content, reply.answer.body
        noted.answer = cut(redact_kept(said, noted.redacted) or redact_json(body, noted.redacted))
    noted.cache = str(reply.origin.cache)
    noted.waited = reply.origin.waited
    noted.model = reply.answer.model
    noted.provider = reply.answer.provider
    noted.tokens = reply.answer.usage.total_tokens
    noted.cost_usd = reply.cost_usd
    if reply.is_free:
        noted.saved_tokens = reply.answer.usage.total_tokens
        noted.saved_usd = reply.answer.cost_usd or 0.0


def tail(reply: Reply, noted: RequestRecord) -> Body:
    """The fields that /chat and /summarize end with."""
    usage = reply.answer.usage
    return {
        "tokens_used": usage.total_tokens,
        "cached": reply.cached,
        "model": reply.answer.model,
        "provider": reply.answer.provider,
        "usage": {
            "input_tokens": usage.input_tokens,
            "output_tokens": usage.output_tokens,
            "total_tokens": usage.total_tokens,
        },
        "cost_usd": reply.cost_usd,
        "request_id": noted.request_id,
    }
