"""/v1/responses: OpenAI's Responses."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, urlencode

from flask import Response, request

from webapp.admission import guard_without_counting
from webapp.api import answers
from webapp.api.blueprint import MEBIBYTE, AnsweringBlueprint, Blueprint, ModelEndpoint
from webapp.api.dialects import speaking
from webapp.api.dialects.dialect import COST_HEADER
from webapp.api.dialects.openai import OPENAI
from webapp.api.dialects.responses import ResponseEvents
from webapp.api.openapi import ONE_OF_THEM, openai_answers_and_errors, query_of_names
from webapp.api.schemas import ResponsesBody
from webapp.errors import ValidationError
from webapp.llm.messages import STATEFUL_FIELDS, ModelRequest
from webapp.llm.request_input import refers_to_stored
from webapp.observability import request_context
from webapp.services import services

EXAMPLE = {"model": "gpt-4o-mini", "input": "What is a weir?", "store": False}
# What of a query is passed on.
INCLUDE = ("include", "include[]")
LISTING = (*INCLUDE, "after", "before", "limit", "order")


def to_model_request(body: dict[str, Any]) -> ModelRequest:
    """The model request of a valid body, with all fields unchanged. Raises ValidationError."""
    if body.get("background"):
        reason = "Weir does not run responses in the background. Leave it out."
        raise ValidationError(f"background: {reason}", details={"background": [reason]})
    stream = bool(body.pop("stream", False))
    return ModelRequest(
        body,
        body.pop("model", None),
        operation="responses",
        native=False,
        stream=stream,
        cacheable=body.get("store") is False and not _has_state(body),
    )


def _has_state(body: dict[str, Any]) -> bool:
    """Whether a request refers to state at the provider, or begins it."""
    listed = [body.get(name) for name in ("input", "tools")]
    items = [item for value in listed if isinstance(value, list) for item in value]
    return any(body.get(name) for name in STATEFUL_FIELDS) or any(
        isinstance(item, dict)
        and (
            item.get("type") == "code_interpreter"
            or "environment" in item
            or refers_to_stored(item)
        )
        for item in items
    )


blueprint = speaking(
    OPENAI,
    AnsweringBlueprint(
        "responses",
        __name__,
        description="OpenAI's API: responses",
        max_body=20 * MEBIBYTE,
        model_endpoint=ModelEndpoint("/v1/responses", ResponsesBody(), to_model_request),
    ),
)


# What is free and changes nothing but what is kept: it counts against no limit.
kept = speaking(
    OPENAI,
    guard_without_counting(
        Blueprint("kept_responses", __name__, description="OpenAI's API: responses")
    ),
)


@blueprint.post("/responses")
@openai_answers_and_errors(streamed=True)
@blueprint.arguments(ResponsesBody(), example=EXAMPLE)
@blueprint.response(200)
def create(body: dict[str, Any]) -> Response:
    """Create a response, as OpenAI's API; other fields are passed to the provider"""
    model_request = to_model_request(body)
    return answers.verbatim(model_request, ResponseEvents(body, model_request.model))


@kept.get("/responses/<response_id>")
@kept.doc(security=ONE_OF_THEM, parameters=query_of_names("include[]"))
@openai_answers_and_errors(streamed=False)
def retrieve(response_id: str) -> Response:
    """Get a response of this key that its provider keeps"""
    if request.args.get("stream") in {"true", "1"}:
        reason = "Weir does not stream a response again. Leave it out."
        raise ValidationError(f"stream: {reason}", details={"stream": [reason]})
    return _passed_on("GET", response_id, names=INCLUDE)


@kept.delete("/responses/<response_id>")
@kept.doc(security=ONE_OF_THEM)
@openai_answers_and_errors(streamed=False)
def delete(response_id: str) -> Response:
    """Delete a response of this key at its provider"""
    return _passed_on("DELETE", response_id)


@blueprint.post("/responses/<response_id>/cancel")
@openai_answers_and_errors(streamed=False)
def cancel(response_id: str) -> Response:
    """Cancel a response of this key at its provider"""
    return _passed_on("POST", response_id, "/cancel")


@kept.get("/responses/<response_id>/input_items")
@kept.doc(security=ONE_OF_THEM, parameters=query_of_names("after", "include[]", "limit", "order"))
@openai_answers_and_errors(streamed=False)
def input_items(response_id: str) -> Response:
    """List the input of a response of this key"""
    return _passed_on("GET", response_id, "/input_items", LISTING)


def _passed_on(
    method: str, response_id: str, path: str = "", names: tuple[str, ...] = ()
) -> Response:
    """The answer of the provider that keeps the response."""
    query = urlencode([pair for pair in request.args.items(multi=True) if pair[0] in names])
    below = f"{quote(response_id, safe='')}{path}{'?' if query else ''}{query}"
    options = answers.call_options(None, streamed=False, counted=False)
    gateway = services().gateway
    provider, body = gateway.stored_response(method, response_id, below, options)
    request_context.current().cost_usd = 0.0
    headers = {"X-Weir-Provider": provider, COST_HEADER: "0"}
    return Response(body, mimetype="application/json", headers=headers)
