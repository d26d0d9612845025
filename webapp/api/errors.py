"""Renders every error as the native envelope."""

from __future__ import annotations

import logging
from typing import Any

from flask import Flask, Response, jsonify, request
from gunicorn.http.errors import ParseException
from werkzeug.exceptions import HTTPException

from webapp import errors
from webapp.observability import record

log = logging.getLogger(__name__)

OF_STATUS: dict[int, type[errors.WeirError]] = {
    400: errors.MalformedRequest,
    404: errors.NotFound,
    405: errors.MethodNotAllowed,
    413: errors.PayloadTooLarge,
    415: errors.UnsupportedMediaType,
}


def register(app: Flask) -> None:
    app.register_error_handler(errors.WeirError, render)
    app.register_error_handler(HTTPException, _http)
    app.register_error_handler(ParseException, _not_http)
    app.register_error_handler(Exception, _unexpected)


def render(error: errors.WeirError) -> Response:
    """The envelope of an error, with its status and the headers that go with it."""
    noted = record.current()
    noted.error, noted.failed = error.name, error.status >= 500
    body = {
        "error": error.name,
        "message": error.message,
        "details": error.details,
        "path": request.path,
        "request_id": noted.request_id,
    }
    response = jsonify(body)
    response.status_code = error.status
    if error.status == 401:
        response.headers["WWW-Authenticate"] = 'Bearer realm="weir"'
    if error.status in {429, 503}:
        response.headers["Retry-After"] = str(error.retry_after or 1)
    return response


def _not_http(error: Exception) -> Response:
    """A body that turned out, while it was read, to be no HTTP."""
    return render(errors.MalformedRequest("The body is not well-formed HTTP."))


def _http(error: HTTPException) -> Any:
    status = error.code or 500
    if status < 400:
        return error  # a redirect
    kind = OF_STATUS.get(status)
    if kind is None:
        return _unexpected(error) if status >= 500 else _other(error, status)
    known = kind(None if status in {404, 405} else error.description)
    response = render(known)
    for name, value in error.get_headers():
        if name in {"Allow", "Retry-After"}:
            response.headers[name] = value
    return response


def _other(error: HTTPException, status: int) -> Response:
    """A status that HTTP knows and Weir has no name for."""
    known = errors.MalformedRequest(error.description)
    response = render(known)
    response.status_code = status
    return response


def _unexpected(error: Exception) -> Response:
    log.error("A request failed", exc_info=error, extra={"request_id": record.current().request_id})
    return render(errors.InternalError())
