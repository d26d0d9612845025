"""Renders every error in the dialect of its endpoint."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

from flask import Flask, Response, jsonify
from gunicorn.http.errors import ParseException
from werkzeug.exceptions import HTTPException

from webapp import errors
from webapp.api import dialects
from webapp.api.dialects.anthropic import OVERLOADED
from webapp.client_socket import BodyTimeout
from webapp.observability import request_context

log = logging.getLogger(__name__)

OF_STATUS: dict[int, type[errors.WeirError]] = {
    400: errors.MalformedRequest,
    404: errors.NotFound,
    405: errors.MethodNotAllowed,
    413: errors.PayloadTooLarge,
    415: errors.UnsupportedMediaType,
}


def register(app: Flask) -> None:
    app.register_error_handler(errors.WeirError, handler(render))
    app.register_error_handler(HTTPException, handler(_http))
    app.register_error_handler(ParseException, handler(lambda _: render(not_http())))
    app.register_error_handler(Exception, handler(lambda error: render(unexpected(error))))


def handler(render: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """An error handler that keeps nothing in memory that the error came through."""

    def handle(error: Exception) -> Any:
        try:
            return render(error)
        finally:
            errors.forget_traceback(error)

    return handle


def render(error: errors.WeirError) -> Response:
    """The response for an error: envelope, status and headers."""
    dialect = dialects.current()
    error = dialect.error(error)
    request_context.current().ended_with(error)
    response = jsonify(dialect.envelope(error))
    response.status_code = dialect.status(error)
    if error.status == 401:
        response.headers["WWW-Authenticate"] = 'Bearer realm="weir"'
    if response.status_code in {429, 503, OVERLOADED} or isinstance(
        error, errors.IdempotencyInProgress
    ):
        response.headers["Retry-After"] = str(max(1, math.ceil(error.retry_after or 1)))
    if error.should_retry is not None:
        response.headers["x-should-retry"] = str(error.should_retry).lower()
    if error.attempts:
        response.headers["X-Weir-Attempts"] = str(error.attempts)
    return response


def not_http() -> errors.WeirError:
    """Of a body that Gunicorn could not parse while it was read."""
    return errors.MalformedRequest("The body is not well-formed HTTP.")


def of_http(error: HTTPException) -> errors.WeirError:
    """The WeirError for an HTTP status of 400 or more. A status of 500 or more is logged."""
    status = error.code or 500
    if status >= 500:
        return unexpected(error)
    if isinstance(error.__context__, BodyTimeout):
        return errors.BodyTooSlow()
    known = OF_STATUS.get(status, errors.MalformedRequest)(
        None if status in {404, 405} else error.description
    )
    known.status = status  # may be a status that Weir has no own error for
    return known


def unexpected(error: Exception) -> errors.WeirError:
    """Log an unexpected error, and return the one that the client gets."""
    request_id = request_context.current().request_id
    log.error("A request failed", exc_info=error, extra={"request_id": request_id})
    return errors.InternalError()


def _http(error: HTTPException) -> Any:
    if (error.code or 500) < 400:
        return error  # a redirect
    response = render(of_http(error))
    for name, value in error.get_headers():
        if name in {"Allow", "Retry-After"}:
            response.headers[name] = value
    return response
