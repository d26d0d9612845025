"""What happens around every request: its record, its headers, its log line, its count."""

from __future__ import annotations

import time
from functools import partial
from typing import Any, cast

from flask import Flask, Response, current_app, g, request

from webapp import money
from webapp.api.blueprint import is_openai_door
from webapp.gate import limits
from webapp.gate.identity import KEY_HEADERS
from webapp.metering.request_log import LoggedRequest
from webapp.metering.traffic import Counts
from webapp.observability import record, telemetry, tracing
from webapp.observability.logs import log_request
from webapp.observability.record import RequestRecord
from webapp.services import Services

SECURITY_HEADERS = [
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Permissions-Policy", "camera=(), geolocation=(), microphone=()"),
]
API_POLICY = "default-src 'none'; frame-ancestors 'none'"


def register(app: Flask, services: Services) -> None:
    app.before_request(_begin)
    app.after_request(partial(_finish, services))


def _begin() -> None:
    request_id = request.headers.get("X-Request-ID")
    # An address that is none may hold anything, a key too.
    rule = request.url_rule.rule if request.url_rule else "(unknown)"
    g.record = record.begin(
        None if request_id in _credentials() else request_id,
        request.headers.get("traceparent"),
        request.method,
        rule,
        tracing.request(cast(Any, request.headers), request.method, rule),
    )


def _credentials() -> set[str]:
    """What the request sent as a key: no request id, which is logged."""
    sent = (request.headers.get(name, "") for name in (*KEY_HEADERS, "Authorization"))
    return {word for value in sent for word in value.split()}


def _finish(services: Services, response: Response) -> Response:
    noted = record.current()
    headers = response.headers
    openai = request.blueprint and is_openai_door(current_app.blueprints[request.blueprint])
    headers.extend(
        [
            ("X-Request-ID", noted.request_id),
            ("X-Process-Time", f"{noted.milliseconds / 1000:.6f}"),
            *limits.headers(),
            *(limits.openai_headers() if openai else ()),
            *SECURITY_HEADERS,
        ]
    )
    if "Content-Security-Policy" not in headers:
        headers.add("Content-Security-Policy", API_POLICY)
    if services.settings.production and request.is_secure:
        headers.add("Strict-Transport-Security", "max-age=31536000; includeSubDomains")
    principal = g.get("principal")
    if principal is not None:
        noted.key_id, noted.api_key, noted.tier = principal.key_id, principal.mask, principal.tier
    noted.admitted = g.get("admitted", False)
    ended = limits.over()
    if ended:
        response.call_on_close(ended)
    # A stream is over when the server closes it, not when its headers are made.
    response.call_on_close(partial(_closed, services, noted, response.status_code))
    return response


def _closed(services: Services, noted: RequestRecord, status: int) -> None:
    log_request(noted, status)
    telemetry.request_over(noted, status)
    _end_span(noted, status)
    if noted.key_id is None or noted.method != "POST":
        return
    services.request_log.add(
        LoggedRequest(
            at=time.time(),
            request_id=noted.request_id,
            key_id=noted.key_id,
            endpoint=noted.endpoint,
            status=status,
            cache=noted.cache,
            provider=noted.provider,
            model=noted.model,
            tokens=noted.tokens,
            cost_nano=None if noted.cost_usd is None else round(noted.cost_usd * money.NANO),
            milliseconds=noted.milliseconds,
            error=noted.error,
            prompt=noted.prompt,
            answer=noted.answer,
        )
    )
    if noted.admitted:
        counts = Counts(
            requests=1,
            hits=int(noted.cache in {"HIT", "STALE"}),
            misses=int(noted.cache in {"MISS", "COALESCED"}),
            errors=int(noted.failed),
            tokens=noted.tokens or 0,
            saved_tokens=noted.saved_tokens,
            saved_nano=round(noted.saved_usd * money.NANO),
        )
        services.traffic.count(noted.key_id, counts, noted.milliseconds)


def _end_span(noted: RequestRecord, status: int) -> None:
    facts = {"request_id": noted.request_id, "tier": noted.tier, "cache": noted.cache}
    noted.span.note({"http.response.status_code": status})
    noted.span.end(
        noted.error if noted.failed else None,
        **{name: value for name, value in facts.items() if value is not None},
    )
