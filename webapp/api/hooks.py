"""Hooks of every request: context, response headers, log line, counters, trace."""

from __future__ import annotations

import time
from functools import partial
from typing import Any, cast

from flask import Flask, Request, g

from webapp import money
from webapp.admission import bodies, limits, sessions
from webapp.admission.deferred import ENVIRONMENT_KEY
from webapp.admission.identity import KEY_HEADERS
from webapp.api import dialects
from webapp.api.response import Response
from webapp.current_request import current_request
from webapp.library_internals import unread_body
from webapp.metering.request_log import MAX_CLIENT_QUEUED, REPLAYED, LoggedRequest
from webapp.metering.totals import UsageTotals
from webapp.observability import request_context, telemetry, tracing
from webapp.observability.logs import log_request
from webapp.observability.refusals import COUNTER_OF_LIMIT
from webapp.observability.request_context import RequestContext
from webapp.services import Services

SECURITY_HEADERS = [
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Permissions-Policy", "camera=(), geolocation=(), microphone=()"),
]
# Bytes of a body that nobody read, up to which a connection is kept for the next request.
MAX_UNREAD = 64 * 1024
API_POLICY = [("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")]
TRANSPORT_SECURITY = [("Strict-Transport-Security", "max-age=31536000; includeSubDomains")]


def register(app: Flask, services: Services) -> None:
    app.response_class = Response
    app.before_request(_begin)
    app.after_request(partial(_finish, services))


def _begin() -> None:
    request = current_request()
    request_id = request.headers.get("X-Request-ID")
    # The rule and not the path, as an unknown path may contain anything, even a key.
    rule = request.url_rule.rule if request.url_rule else "(unknown)"
    g.request_context = request_context.begin(
        None if request_id and request_id in _credentials(request) else request_id,
        request.headers.get("traceparent"),
        request.method,
        rule,
        tracing.request(cast(Any, request.headers), request.method, rule),
    )
    g.request_context.client = request.headers.get("User-Agent")


def _credentials(request: Request) -> set[str]:
    """The credentials in the request. They must not become its request id, which is logged."""
    sent = (request.headers.get(name, "") for name in (*KEY_HEADERS, "Authorization"))
    return {word for value in sent for word in value.split()}


def _finish(services: Services, response: Response) -> Response:
    context, request = request_context.current(), current_request()
    response.added = [
        ("X-Request-ID", context.request_id),
        ("X-Process-Time", f"{context.milliseconds / 1000:.6f}"),
        *limits.headers(),
        *dialects.current().headers(),
        *SECURITY_HEADERS,
        *(() if "Content-Security-Policy" in response.headers else API_POLICY),
        *(TRANSPORT_SECURITY if services.settings.production and request.is_secure else ()),
    ]
    principal = g.get("principal")
    if principal is not None:
        context.key_id, context.api_key, context.tier = (
            principal.key_id,
            principal.mask,
            principal.tier,
        )
    if context.limit:
        sessions.give_back()
    context.limited, context.admitted = g.get("limited", False), g.get("admitted", False)
    for ended in (limits.over(), bodies.over()):
        if ended:
            response.call_on_close(ended)
    connection = request.environ.get("gunicorn.socket")
    if connection is not None:
        connection.answer_belongs_to(bodies.whose())
        if unread_body(request.environ["wsgi.input"]) > MAX_UNREAD:
            connection.close_after_answer()
    # A stream ends when the server closes it, not when its headers are ready.
    counted = ENVIRONMENT_KEY not in request.environ  # a job's request was, when it came
    endpoint = dialects.counted_endpoint(context.endpoint)
    ended = partial(_closed, services, context, response.status_code, endpoint, counted)
    response.call_on_close(ended)
    return response


def _closed(
    services: Services, context: RequestContext, status: int, endpoint: str, counted: bool
) -> None:
    log_request(context, status)
    if counted:
        telemetry.request_over(context, status)
    _end_span(context, status)
    if context.key_id is None or context.method != "POST":
        return
    milliseconds, began = context.milliseconds, context.began_to_answer
    first_token = began and began * 1000
    services.request_log.add(
        LoggedRequest(
            at=time.time(),
            request_id=context.request_id,
            key_id=context.key_id,
            endpoint=endpoint,
            status=status,
            cache=REPLAYED if context.replayed else context.cache,
            provider=context.provider,
            model=context.routed_model,
            asked_model=context.asked_model,
            answered_model=context.answered_model,
            tokens=context.tokens,
            cost_nano=None if context.cost_usd is None else round(context.cost_usd * money.NANO),
            milliseconds=milliseconds,
            error=context.error,
            first_token_milliseconds=first_token,
            client=context.client and context.client[:MAX_CLIENT_QUEUED],
            refused_by=context.limit,
            prompt=context.prompt,
            answer=context.answer,
        )
    )
    if context.limit:
        if context.limited:
            refused = UsageTotals(**{COUNTER_OF_LIMIT[context.limit]: 1})
            target = _target(services, context, status)
            services.traffic.count(context.key_id, refused, endpoint=endpoint, target=target)
    elif context.admitted:
        counts = UsageTotals(
            requests=1,
            hits=int(context.cache in {"HIT", "STALE"}),
            misses=int(context.cache in {"MISS", "COALESCED"}),
            errors=int(context.failed),
            tokens=context.tokens or 0,
            saved_tokens=context.saved_tokens,
            saved_nano=round(context.saved_usd * money.NANO),
        )
        services.traffic.count(
            context.key_id,
            counts,
            milliseconds,
            endpoint=endpoint,
            target=_target(services, context, status),
            first_token=first_token,
        )


def _target(services: Services, context: RequestContext, status: int) -> tuple[str, str]:
    """The provider and model that a request is counted under, "" where it has none."""
    provider, model = context.provider or "", context.model or ""
    if not provider:  # a prediction has a model alone
        return provider, model
    answered = status < 400 and context.error is None
    return services.counted_models.of(provider, model, answered=answered)


def _end_span(context: RequestContext, status: int) -> None:
    attributes = {"request_id": context.request_id, "tier": context.tier, "cache": context.cache}
    context.span.note({"http.response.status_code": status})
    context.span.end(
        context.error if context.failed else None,
        **{name: value for name, value in attributes.items() if value is not None},
    )
