"""POST /v1/explain: what a request would do, without doing it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flask import request
from marshmallow import Schema

from webapp import money
from webapp.admission import guard_without_counting
from webapp.admission.limits import check_left
from webapp.api import answers, chat, completions, embeddings, generate, summarize
from webapp.api.blueprint import (
    MEBIBYTE,
    Blueprint,
    limit_body,
    openai_endpoint,
    read_json,
    validated,
)
from webapp.api.key import budgets_left, limits_left
from webapp.api.openapi import ONE_OF_THEM, openai_errors_of
from webapp.api.schemas import (
    ChatBody,
    CompletionBody,
    EmbeddingsBody,
    GenerateBody,
    SummarizeBody,
)
from webapp.errors import ValidationError
from webapp.llm.messages import ModelRequest
from webapp.llm.tokens import estimate_input_tokens
from webapp.services import services

blueprint = openai_endpoint(
    guard_without_counting(Blueprint("explain", __name__, description="Explain a request"))
)
blueprint.before_request(lambda: limit_body(20 * MEBIBYTE))

ToModelRequest = Callable[[dict[str, Any]], ModelRequest]
DEFAULT = "/v1/chat/completions"
ENDPOINTS: dict[str, tuple[Schema, ToModelRequest]] = {
    DEFAULT: (CompletionBody(), completions.to_model_request),
    "/v1/embeddings": (EmbeddingsBody(), embeddings.to_model_request),
    "/chat": (ChatBody(), chat.to_model_request),
    "/generate": (GenerateBody(), generate.to_model_request),
    "/summarize": (SummarizeBody(), summarize.to_model_request),
}
ENDPOINT = {
    "name": "endpoint",
    "in": "query",
    "required": False,
    "schema": {"type": "string", "enum": list(ENDPOINTS), "default": DEFAULT},
    "description": "The endpoint that the body is for.",
}

BODY = {
    "required": True,
    "content": {
        "application/json": {
            "schema": CompletionBody,
            "example": completions.EXAMPLE,
        }
    },
}


@blueprint.post("/explain")
@blueprint.doc(security=ONE_OF_THEM, parameters=[ENDPOINT], requestBody=BODY)
@openai_errors_of(400, 401, 404, 413, 415, 429, 503)
@blueprint.response(200)
def explain() -> dict[str, Any]:
    """Dry run: route, cache result, limits and cost ceiling of a request; consumes nothing"""
    endpoint = request.args.get("endpoint", DEFAULT)
    if endpoint not in ENDPOINTS:
        known = {"endpoint": [f"Must be one of {', '.join(ENDPOINTS)}."]}
        raise ValidationError("This endpoint cannot be explained.", details=known)
    schema, to_model_request = ENDPOINTS[endpoint]
    body = validated(schema, read_json())
    if endpoint == "/summarize":
        summarize.check_length(body["text"])
    check_left()
    meant = to_model_request(body)
    options = answers.call_options(streamed=meant.stream)
    forecast = services().gateway.forecast(meant, options)
    return {
        "route": forecast.route.name,
        "targets": [target.name for target in forecast.route.targets],
        "cache": str(forecast.cache),
        "would_coalesce": forecast.would_coalesce,
        "limits": limits_left(),
        "budget": budgets_left(),
        "cost_ceiling_usd": money.to_usd(forecast.ceiling.nano),
        "input_tokens": estimate_input_tokens(meant.body),
    }
