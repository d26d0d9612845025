"""Renders every error in the native envelope, or in OpenAI's at OpenAI's endpoints."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable
from typing import Any

from flask import Flask, Response, current_app, jsonify, request
from gunicorn.http.errors import ParseException
from werkzeug.exceptions import HTTPException

from webapp import errors
from webapp.api.blueprint import is_openai_endpoint
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

# OpenAI's error types by status. Other statuses below 500 are `invalid_request_error`.
OPENAI_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
}
# By error name; these come first.
OPENAI_TYPES_OF_ERRORS = {"BudgetExceeded": "insufficient_quota"}


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
    openai = at_openai_endpoint()
    if openai and isinstance(error, errors.NotAllowed):
        error = errors.NotAuthenticated(error.message)
    request_context.current().ended_with(error)
    response = jsonify(openai_envelope(error) if openai else native_envelope(error))
    response.status_code = error.status
    if openai and type(error) is errors.ValidationError:
        response.status_code = 400
    if error.status == 401:
        response.headers["WWW-Authenticate"] = 'Bearer realm="weir"'
    if error.status in {429, 503} or isinstance(error, errors.IdempotencyInProgress):
        response.headers["Retry-After"] = str(max(1, math.ceil(error.retry_after or 1)))
    if error.should_retry is not None:
        response.headers["x-should-retry"] = str(error.should_retry).lower()
    if error.attempts:
        response.headers["X-Weir-Attempts"] = str(error.attempts)
    return response


def native_envelope(error: errors.WeirError) -> dict[str, Any]:
    return {
        "error": error.name,
        "message": error.message,
        "details": error.details,
        "path": request.path,
        "request_id": request_context.current().request_id,
    }


def openai_envelope(error: errors.WeirError) -> dict[str, Any]:
    """The error in OpenAI's format, always with all four fields, as clients read each of them."""
    details = error.details or {}
    param = details.get("param")
    if isinstance(error, errors.ValidationError | errors.UnsupportedParameter):
        param = next(iter(details), None)
    kind = "server_error" if error.status >= 500 else "invalid_request_error"
    body = {
        "message": error.message,
        "type": OPENAI_TYPES_OF_ERRORS.get(error.name) or OPENAI_TYPES.get(error.status, kind),
        "param": None if param is None else str(param),
        "code": details.get("code") or _snake_case(error.name),
    }
    if "provider" in details:
        body["provider"] = details["provider"]
    return {"error": body}


def at_openai_endpoint() -> bool:
    """Whether the request is for an OpenAI endpoint, or for an unknown path under /v1."""
    blueprint = request.blueprint
    if blueprint:
        return is_openai_endpoint(current_app.blueprints[blueprint])
    native = current_app.extensions["weir.native_paths"]
    return request.path.startswith("/v1/") and request.path not in native


def _snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


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
