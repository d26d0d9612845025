"""What all pages share: rendering, Content-Security-Policy, error pages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import flask
from flask import Response, current_app, g, make_response, render_template, request
from flask_wtf.csrf import generate_csrf
from gunicorn.http.errors import ParseException
from werkzeug.exceptions import HTTPException
from werkzeug.routing import RequestRedirect

from webapp import local_model
from webapp.api.errors import handler, not_http, of_http, unexpected
from webapp.errors import NotFound, WeirError
from webapp.observability import request_context
from webapp.services import services
from webapp.version import VERSION

LARGEST_BIG_ID = 2**63 - 1
THEMES = ("system", "light", "dark")
CLOCKS = ("utc", "local")
PAGE_NOT_FOUND = "This page does not exist, or your account has no access to it."

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    )
)


class Blueprint(flask.Blueprint):
    """A blueprint whose errors are rendered as pages."""

    def __init__(self, name: str, import_name: str) -> None:
        super().__init__(name, import_name)
        self.register_error_handler(WeirError, handler(error_page))
        self.register_error_handler(HTTPException, handler(_http))
        self.register_error_handler(ParseException, handler(lambda _: error_page(not_http())))
        self.register_error_handler(Exception, handler(lambda error: error_page(unexpected(error))))


def page(template: str, **context: Any) -> Response:
    """Render a template of templates/dashboard."""
    common = {
        "user": g.get("user"),
        "theme": _chosen("weir_theme", THEMES),
        "clock": _chosen("weir_time", CLOCKS),
        "csrf_token": generate_csrf,
        "here": _address(),
        "version": VERSION,
        "offline": not services().settings.has_provider,
        "local_model": local_model.label(),
    }
    response = make_response(render_template(f"dashboard/{template}", **common | context))
    response.headers["Content-Security-Policy"] = POLICY
    response.headers["Cache-Control"] = "no-store"
    return response


def _chosen(cookie: str, choices: Sequence[str]) -> str:
    """The choice in a cookie; the first where there is none."""
    sent = request.cookies.get(cookie)
    return next((choice for choice in choices if choice == sent), choices[0])


def _address() -> str:
    """The address of this page; where it answers a form, of the nearest page at or above it."""
    if request.method in {"GET", "HEAD"}:
        return request.script_root + request.full_path.rstrip("?")
    path = request.path
    while path.count("/") > 2 and not _has_page(path):
        path = path.rpartition("/")[0]
    return request.script_root + (path if _has_page(path) else "/dashboard/")


def _has_page(path: str) -> bool:
    try:
        endpoint, _ = current_app.create_url_adapter(request).match(path, "GET")  # type: ignore[union-attr]
    except (HTTPException, RequestRedirect):
        return False
    return bool(endpoint != "session.nowhere")


def number_of(sent: str | None, largest: int) -> int | None:
    """A number from a query or a form; None if it is not a number or above `largest`."""
    if not sent or not sent.isdecimal() or len(sent) > 18:
        return None
    return int(sent) if int(sent) <= largest else None


def error_page(error: WeirError) -> Response:
    """An error as a page, or as JSON if the client accepts only that."""
    context = request_context.current()
    context.ended_with(error)
    if request.accept_mimetypes.best_match(["text/html", "application/json"]) != "text/html":
        response = flask.jsonify(error=error.name, message=error.message, details=error.details)
    else:
        # What the API says of an address without an endpoint does not help who reads pages.
        words = PAGE_NOT_FOUND if error.message == NotFound.message else error.message
        response = page("error.html", error=error, words=words, request_id=context.request_id)
    response.status_code = error.status
    if error.retry_after:
        response.headers["Retry-After"] = str(math.ceil(error.retry_after))
    return response


def _http(error: HTTPException) -> Any:
    return error if (error.code or 500) < 400 else error_page(of_http(error))
