"""What all pages share: rendering, Content-Security-Policy, error pages."""

from __future__ import annotations

import math
from typing import Any

import flask
from flask import Response, g, make_response, render_template, request
from flask_wtf.csrf import generate_csrf
from gunicorn.http.errors import ParseException
from werkzeug.exceptions import HTTPException

from webapp import local_model
from webapp.api.errors import handler, not_http, of_http, unexpected
from webapp.errors import WeirError
from webapp.observability import request_context
from webapp.services import services
from webapp.version import VERSION

LARGEST_BIG_ID = 2**63 - 1

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
    theme = request.cookies.get("weir_theme")
    body = render_template(
        f"dashboard/{template}",
        user=g.get("user"),
        theme=theme if theme in {"light", "dark"} else "system",
        csrf_token=generate_csrf,
        here=request.script_root + request.full_path.rstrip("?") if request.method == "GET" else "",
        version=VERSION,
        offline=not services().settings.has_provider,
        local_model=local_model.label(),
        **context,
    )
    response = make_response(body)
    response.headers["Content-Security-Policy"] = POLICY
    response.headers["Cache-Control"] = "no-store"
    return response


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
        response = flask.jsonify(error=error.name, message=error.message)
    else:
        response = page("error.html", error=error, request_id=context.request_id)
    response.status_code = error.status
    if error.retry_after:
        response.headers["Retry-After"] = str(math.ceil(error.retry_after))
    return response


def _http(error: HTTPException) -> Any:
    return error if (error.code or 500) < 400 else error_page(of_http(error))
