"""The OpenAPI document, except for the schemas, and the pages that show it."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import Any, TypeVar

import flask_smorest
from flask import Flask, Response, current_app, render_template, request, url_for
from marshmallow import Schema, fields, validate

from webapp.admission import public
from webapp.api.blueprint import Blueprint
from webapp.api.dialects.anthropic import OVERLOADED
from webapp.api.schemas import (
    AnthropicErrorSchema,
    ErrorSchema,
    NewJobSchema,
    OpenAIErrorSchema,
)
from webapp.version import VERSION

View = TypeVar("View", bound=Callable[..., Any])

blueprint = public(Blueprint("documents", __name__))

SECURITY_SCHEMES = {
    "ApiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    "Bearer": {"type": "http", "scheme": "bearer"},
}
ADMIN: list[dict[str, list[str]]] = [{"Bearer": []}]
ONE_OF_THEM: list[dict[str, list[str]]] = [{name: []} for name in SECURITY_SCHEMES]
DESCRIPTION = (
    "A self-hosted LLM API: API keys with tiers, rate limits, budgets and a response cache. "
    "Press Authorize and enter a key (`prod_key_456` works in development, from this machine)."
)
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'{hashes}; img-src 'self' data:; "
    "connect-src 'self'; font-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
# ReDoc adds empty <style> elements, which it fills through the CSSOM, and one for its scroll bar.
# Only these two texts are allowed inline.
REDOC_HASHES = (
    " 'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='"
    " 'sha256-QMIg+bpjm3JdElJ388KYke01izlUW0UoNOeKjpMxdgc='"
)


QUERY_TYPES: dict[type, str] = {fields.Integer: "integer", fields.Boolean: "boolean"}
EVENT = {
    "type": "object",
    "description": "A server-sent event; its data is JSON, or `[DONE]` at the end.",
    "properties": {"data": {"type": "string"}},
    "required": ["data"],
}
IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "pattern": "^[!-~]{1,255}$"},
    "description": "A retry with the same key within 24 h gets the first answer.",
}
SESSION = {
    "name": "X-Weir-Session",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "pattern": "^[!-~]{1,256}$"},
    "description": "The session of an agent: for limits per session, and the choice of a target.",
}
HEADERS = [
    {
        "name": "Cache-Control",
        "in": "header",
        "required": False,
        "schema": {"type": "string"},
        "description": "`no-cache` (do not read), `no-store` (neither read nor write), `max-age=N`",
    },
    IDEMPOTENCY_KEY,
]
NATIVE_HEADERS = [
    *HEADERS,
    {
        "name": "Prefer",
        "in": "header",
        "required": False,
        "schema": {"type": "string"},
        "description": "`respond-async`: answer later, at `/jobs/{id}` (RFC 7240).",
    },
    {
        "name": "X-Weir-Callback",
        "in": "header",
        "required": False,
        "schema": {"type": "string"},
        "description": "With `Prefer: respond-async`: the `https://` URL that is told of the end, "
        "at a host in `CALLBACK_HOSTS` (Standard Webhooks).",
    },
]
ANTHROPICS_HEADERS: list[dict[str, Any]] = [
    *HEADERS,
    *(
        {
            "name": name,
            "in": "header",
            "required": False,
            "schema": {"type": "string", "pattern": "^[ -~]{1,4096}$"},
            "description": "Passed on to the provider.",
        }
        for name in ("anthropic-version", "anthropic-beta")
    ),
]
ACCEPTED = {
    202: {
        "description": "With `Prefer: respond-async`: the job that answers later.",
        "schema": NewJobSchema,
        "headers": {
            "Location": {"schema": {"type": "string"}},
            "Preference-Applied": {"schema": {"type": "string"}},
        },
    }
}


class Api(flask_smorest.Api):
    """smorest's API with Weir's error schema; HTTP errors are rendered by api/errors.py.

    Its document is made when it is first asked for: most processes never are, and all start sooner.
    """

    ERROR_SCHEMA = ErrorSchema
    DEFAULT_ERROR_RESPONSE_NAME = None

    def __init__(self, app: Flask) -> None:
        self._undescribed: list[Blueprint] = []
        super().__init__(app)

    def register_blueprint(self, blueprint: Blueprint, **options: Any) -> None:
        """Register a blueprint, which the document describes."""
        self._app.register_blueprint(blueprint, **options)
        self._undescribed.append(blueprint)

    @property
    def spec(self) -> Any:
        """The document, which smorest also reads and completes while a blueprint is described."""
        undescribed, self._undescribed = self._undescribed, []
        for each in undescribed:
            each.register_views_in_doc(self, self._app, self._spec, name=each.name, parameters=None)
            self._spec.tag({"name": each.name, "description": each.description})
        return self._spec

    @spec.setter
    def spec(self, spec: Any) -> None:
        self._spec = spec


def configure(app: Flask) -> Api:
    """The OpenAPI document of the application."""
    app.config.update(
        API_TITLE="Weir API",
        API_VERSION=VERSION,
        OPENAPI_VERSION="3.0.3",
        API_SPEC_OPTIONS={
            "info": {"description": DESCRIPTION},
            "components": {"securitySchemes": SECURITY_SCHEMES},
        },
    )
    return Api(app)


def errors_of(*statuses: int, schema: type[Schema] = ErrorSchema) -> Callable[[View], View]:
    """Document these error statuses, all with one schema."""
    responses = {status: {"description": _phrase(status), "schema": schema} for status in statuses}
    decorator: Callable[[View], View] = Blueprint.doc(responses=responses)
    return decorator


def _phrase(status: int) -> str:
    return "Overloaded" if status == OVERLOADED else HTTPStatus(status).phrase


def query_of(schema: type[Schema]) -> list[dict[str, Any]]:
    """The query parameters of a schema."""
    return [
        {
            "name": name,
            "in": "query",
            "required": field.required,
            "schema": {"type": QUERY_TYPES.get(type(field), "string"), **_bounds(field)},
            "description": field.metadata.get("description", ""),
        }
        for name, field in schema().fields.items()
    ]


def query_of_names(*names: str) -> list[dict[str, Any]]:
    """Query parameters that are passed on."""
    return [
        {"name": name, "in": "query", "required": False, "schema": {"type": "string"}}
        for name in names
    ]


def _bounds(field: fields.Field[Any]) -> dict[str, Any]:
    bounds: dict[str, Any] = {}
    for validator in field.validators:
        if isinstance(validator, validate.OneOf):
            bounds["enum"] = list(validator.choices)
        elif isinstance(validator, validate.Range):
            bounds |= {"minimum": validator.min, "maximum": validator.max}
    return {name: bound for name, bound in bounds.items() if bound is not None}


def answers_and_errors(view: View) -> View:
    """Document what all native endpoints share: credentials, streaming, errors."""
    stream = {"text/event-stream": {"schema": EVENT}}
    documented: View = Blueprint.doc(
        security=ONE_OF_THEM,
        responses={200: {"content": stream}, **ACCEPTED},
        parameters=[*NATIVE_HEADERS, SESSION],
    )(errors_of(400, 401, 403, 404, 409, 413, 415, 422, 429, 500, 502, 503, 504)(view))
    return documented


def openai_errors_of(*statuses: int) -> Callable[[View], View]:
    """Like errors_of(), in OpenAI's envelope."""
    return errors_of(*statuses, schema=OpenAIErrorSchema)


def openai_answers_and_errors(*, streamed: bool) -> Callable[[View], View]:
    """Document what OpenAI's endpoints share. Their answers are those of the provider."""
    errors = openai_errors_of(400, 401, 404, 409, 413, 415, 422, 429, 500, 502, 503, 504)
    return _answers_of_providers(errors, [*HEADERS, SESSION], streamed=streamed)


def anthropic_answers_and_errors(*, streamed: bool) -> Callable[[View], View]:
    """The same of Anthropic's endpoints."""
    statuses = (400, 401, 403, 404, 409, 413, 415, 422, 429, 500, 502, 503, 504, OVERLOADED)
    errors = errors_of(*statuses, schema=AnthropicErrorSchema)
    return _answers_of_providers(errors, [*ANTHROPICS_HEADERS, SESSION], streamed=streamed)


def _answers_of_providers(
    errors: Callable[[View], View], parameters: list[dict[str, Any]], *, streamed: bool
) -> Callable[[View], View]:
    content: dict[str, Any] = {
        "application/json": {"schema": {"type": "object", "additionalProperties": True}}
    }
    if streamed:
        content["text/event-stream"] = {"schema": EVENT}

    def decorator(view: View) -> View:
        documented: View = Blueprint.doc(
            security=ONE_OF_THEM, responses={200: {"content": content}}, parameters=parameters
        )(errors(view))
        return documented

    return decorator


@blueprint.get("/openapi.json")
def openapi_json() -> Any:
    """The OpenAPI document"""
    document = current_app.extensions["weir.api"].spec.to_dict()
    return (
        document | {"servers": [{"url": request.script_root}]} if request.script_root else document
    )


@blueprint.get("/docs")
def swagger() -> Response:
    """Swagger UI"""
    return _page("docs/swagger.html", PAGE_POLICY.format(hashes=""))


@blueprint.get("/redoc")
def redoc() -> Response:
    """ReDoc"""
    return _page("docs/redoc.html", PAGE_POLICY.format(hashes=REDOC_HASHES))


def _page(template: str, policy: str) -> Response:
    page = render_template(template, openapi_url=url_for("documents.openapi_json"))
    return Response(page, headers={"Content-Security-Policy": policy})
