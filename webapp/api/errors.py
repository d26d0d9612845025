"""Renders every error, in the native envelope or, at OpenAI's endpoints, in OpenAI's."""

from __future__ import annotations

import logging
import re
from typing import Any

from flask import Flask, Response, current_app, jsonify, request
from gunicorn.http.errors import ParseException
from werkzeug.exceptions import HTTPException

from webapp import errors
from webapp.api.blueprint import is_openai_endpoint
from webapp.observability import request_context

log = logging.getLogger(__name__)

OF_STATUS: dict[int, type[errors.WeirError]] = {
    400: errors.MalformedRequest,
    404: errors.NotFound,
    405: errors.MethodNotAllowed,
    413: errors.PayloadTooLarge,
    415: errors.UnsupportedMediaType,
}


# What OpenAI calls the kinds of errors; whatever else is below 500 is the request's own fault.
OPENAI_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
}


OPENAI_TYPES_OF_ERRORS = {"BudgetExceeded": "insufficient_quota"}


def register(app: Flask) -> None:
    app.register_error_handler(errors.WeirError, render)
    app.register_error_handler(HTTPException, _http)
    app.register_error_handler(ParseException, _not_http)
    app.register_error_handler(Exception, lambda error: render(unexpected(error)))


def render(error: errors.WeirError) -> Response:
    """The envelope of an error, with its status and the headers that go with it."""
    openai = at_openai_endpoint()
    if openai and isinstance(error, errors.NotAllowed):
        error = errors.NotAuthenticated(error.message)
    context = request_context.current()
    context.error, context.failed = error.name, error.status >= 500
    if isinstance(error, errors.RateLimitExceeded | errors.BudgetExceeded | errors.BudgetReserved):
        context.limit = (error.details or {}).get("limit")
    response = jsonify(openai_envelope(error) if openai else native_envelope(error))
    response.status_code = error.status
    if openai and type(error) is errors.ValidationError:
        response.status_code = 400
    if error.status == 401:
        response.headers["WWW-Authenticate"] = 'Bearer realm="weir"'
    if error.status in {429, 503} or isinstance(error, errors.IdempotencyInProgress):
        response.headers["Retry-After"] = str(error.retry_after or 1)
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
    """All four fields, always: clients read each of them."""
    details = error.details or {}
    param = details.get("param")
    if isinstance(error, errors.ValidationError | errors.UnsupportedParameter):
        param = next(iter(details), None)
    kind = "server_error" if error.status >= 500 else "invalid_request_error"
    return {
        "error": {
            "message": error.message,
            "type": OPENAI_TYPES_OF_ERRORS.get(error.name) or OPENAI_TYPES.get(error.status, kind),
            "param": None if param is None else str(param),
            "code": details.get("code") or _snake_case(error.name),
        }
    }


def at_openai_endpoint() -> bool:
    """Whether the request is for an OpenAI endpoint, or for a path that OpenAI may have."""
    if request.blueprint:
        return is_openai_endpoint(current_app.blueprints[request.blueprint])
    native = current_app.extensions["weir.native_paths"]
    return request.path.startswith("/v1/") and request.path not in native


def _snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


def _not_http(error: Exception) -> Response:
    """A body that turned out, while it was read, to be no HTTP."""
    return render(errors.MalformedRequest("The body is not well-formed HTTP."))


def of_http(error: HTTPException) -> errors.WeirError:
    """The error that an HTTP status of 400 or more stands for; 5xx are logged."""
    status = error.code or 500
    if status >= 500:
        return unexpected(error)
    known = OF_STATUS.get(status, errors.MalformedRequest)(
        None if status in {404, 405} else error.description
    )
    known.status = status  # also one that HTTP knows and Weir has no name for
    return known


def unexpected(error: Exception) -> errors.WeirError:
    """What a client is told of an error that nobody foresaw; it is logged."""
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
