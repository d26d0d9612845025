"""POST /v1/messages and /v1/messages/count_tokens: Anthropic's Messages."""

from __future__ import annotations

import re
from typing import Any

from flask import Response, g, request

from webapp import json_codec
from webapp.admission.identity import Principal
from webapp.api import answers
from webapp.api.blueprint import MEBIBYTE, AnsweringBlueprint, ModelEndpoint
from webapp.api.dialects import speaking
from webapp.api.dialects.anthropic import ANTHROPIC, VERSION_HEADER, AnthropicEvents
from webapp.api.dialects.dialect import COST_HEADER
from webapp.api.openapi import anthropic_answers_and_errors
from webapp.api.schemas import CountTokensBody, MessagesBody, TokenCountSchema
from webapp.errors import ModelNotAllowed, ValidationError
from webapp.llm.messages import ModelRequest
from webapp.observability import request_context
from webapp.services import services

COUNTED = {
    "model": "claude-haiku-4-5",
    "messages": [{"role": "user", "content": "What is a weir?"}],
}
EXAMPLE = {**COUNTED, "max_tokens": 200}
# What of the headers belongs to the request for the provider.
PASSED_ON = (VERSION_HEADER, "anthropic-beta")
# Fields that refer to state on the server, or begin it.
STATEFUL = {"container", "fallback_credit_token", "thread"}
HEADER_VALUE = re.compile(r"[ -~]{1,4096}")


def to_model_request(body: dict[str, Any]) -> ModelRequest:
    """The model request of a valid body, with all fields unchanged, and of the headers."""
    stream = bool(body.pop("stream", False))
    return ModelRequest(
        body,
        body.pop("model", None),
        operation="messages",
        native=False,
        stream=stream,
        headers=_headers(),
        cacheable=not _acts_on_server(body),
    )


def _acts_on_server(body: dict[str, Any]) -> bool:
    """Whether the request is about the provider's state, and not only about its answer."""
    # No output: it is there to fill the provider's prompt cache.
    return body.get("max_tokens") == 0 or any(body.get(name) for name in STATEFUL)


def check(body: dict[str, Any]) -> None:
    """Raise ModelNotAllowed where other models take part that this key may not use: those of
    `fallbacks`, and of tools that are models."""
    principal: Principal = g.principal
    if principal.allowance.models is None:
        return
    fallbacks, tools = body.get("fallbacks"), body.get("tools")
    listed = fallbacks if isinstance(fallbacks, list) else [fallbacks] if fallbacks else []
    named = {"fallbacks": [one.get("model") if isinstance(one, dict) else None for one in listed]}
    advisors = [one for one in tools if isinstance(one, dict)] if isinstance(tools, list) else []
    named["tools"] = [one["model"] for one in advisors if one.get("model") is not None]
    for field, names in named.items():
        if not all(isinstance(n, str) and principal.allowance.allows_model(n) for n in names):
            raise ModelNotAllowed(f"This API key is not allowed to use all models of {field}.")


def _headers() -> dict[str, str]:
    """The headers for the provider. Raises ValidationError."""
    sent = {name: request.headers[name] for name in PASSED_ON if name in request.headers}
    for name, value in sent.items():
        if not HEADER_VALUE.fullmatch(value):
            details = {name: ["Must be 1 to 4,096 visible ASCII characters."]}
            raise ValidationError(f"The request is not valid: {name}.", details=details)
    return sent


blueprint = speaking(
    ANTHROPIC,
    AnsweringBlueprint(
        "messages",
        __name__,
        description="Anthropic's API: messages",
        max_body=32 * MEBIBYTE,
        model_endpoint=ModelEndpoint("/v1/messages", MessagesBody(), to_model_request, check),
    ),
)


@blueprint.post("/messages")
@anthropic_answers_and_errors(streamed=True)
@blueprint.arguments(MessagesBody(), example=EXAMPLE)
@blueprint.response(200)
def create(body: dict[str, Any]) -> Response:
    """Create a message, as Anthropic's API; other fields are passed to the provider"""
    check(body)
    return answers.verbatim(to_model_request(body), AnthropicEvents())


@blueprint.post("/messages/count_tokens")
@anthropic_answers_and_errors(streamed=False)
@blueprint.arguments(CountTokensBody(), example=COUNTED)
@blueprint.response(200, TokenCountSchema)
def count_tokens(body: dict[str, Any]) -> Response:
    """Count the tokens of a request; estimated where the provider does not count them"""
    model_request = to_model_request(body)
    answers.keep_prompt(model_request.body)
    options = answers.call_options(model_request.model, model_request.body, streamed=False)
    counted = services().gateway.count_tokens(model_request, options)
    request_context.current().cost_usd = 0.0
    headers = {"X-Weir-Route": counted.route, COST_HEADER: "0"}
    if counted.provider:
        headers["X-Weir-Provider"] = counted.provider
    content = counted.body or json_codec.dumps({"input_tokens": counted.estimated_tokens})
    return Response(content, mimetype="application/json", headers=headers)
