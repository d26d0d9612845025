"""POST /v1/chat/completions: OpenAI's Chat Completions."""

from __future__ import annotations

from typing import Any

from flask import Response

from webapp.api import answers
from webapp.api.blueprint import MEBIBYTE, AnsweringBlueprint, ModelEndpoint
from webapp.api.dialects import speaking
from webapp.api.dialects.openai import OPENAI, OpenAIEvents
from webapp.api.openapi import openai_answers_and_errors
from webapp.api.schemas import CompletionBody
from webapp.llm.messages import ModelRequest

EXAMPLE = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "What is a weir?"}]}


def to_model_request(body: dict[str, Any]) -> ModelRequest:
    """The model request of a valid body, with all fields unchanged."""
    stream = bool(body.pop("stream", False))
    return ModelRequest(body, body.pop("model", None), native=False, stream=stream)


blueprint = speaking(
    OPENAI,
    AnsweringBlueprint(
        "completions",
        __name__,
        description="OpenAI's API: chat completions",
        max_body=20 * MEBIBYTE,
        model_endpoint=ModelEndpoint("/v1/chat/completions", CompletionBody(), to_model_request),
    ),
)


@blueprint.post("/chat/completions")
@openai_answers_and_errors(streamed=True)
@blueprint.arguments(CompletionBody(), example=EXAMPLE)
@blueprint.response(200)
def complete(body: dict[str, Any]) -> Response:
    """Create a chat completion, as OpenAI's API; other fields are passed to the provider"""
    return answers.verbatim(to_model_request(body), OpenAIEvents())
