"""POST /v1/embeddings: OpenAI's Embeddings."""

from __future__ import annotations

from typing import Any

from flask import Response

from webapp.api import answers
from webapp.api.blueprint import MEBIBYTE, AnsweringBlueprint, ModelEndpoint
from webapp.api.dialects import speaking
from webapp.api.dialects.openai import OPENAI, OpenAIEvents
from webapp.api.openapi import openai_answers_and_errors
from webapp.api.schemas import EmbeddingsBody
from webapp.llm.messages import ModelRequest

EXAMPLE = {"model": "text-embedding-3-small", "input": "What is a weir?"}


def to_model_request(body: dict[str, Any]) -> ModelRequest:
    """The model request of a valid body, with all fields unchanged."""
    return ModelRequest(body, body.pop("model", None), operation="embeddings", native=False)


blueprint = speaking(
    OPENAI,
    AnsweringBlueprint(
        "embeddings",
        __name__,
        description="OpenAI's API: embeddings",
        max_body=20 * MEBIBYTE,
        model_endpoint=ModelEndpoint("/v1/embeddings", EmbeddingsBody(), to_model_request),
    ),
)


@blueprint.post("/embeddings")
@openai_answers_and_errors(streamed=False)
@blueprint.arguments(EmbeddingsBody(), example=EXAMPLE)
@blueprint.response(200)
def embed(body: dict[str, Any]) -> Response:
    """Create embeddings, as OpenAI's API; other fields are passed to the provider"""
    return answers.verbatim(to_model_request(body), OpenAIEvents())
