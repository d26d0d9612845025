"""POST /v1/embeddings: OpenAI's Embeddings."""

from __future__ import annotations

from typing import Any

from flask import Response

from webapp.api import answers
from webapp.api.blueprint import MEBIBYTE, Blueprint, limit_body, openai_door
from webapp.api.documents import openai_answers_and_errors
from webapp.api.schemas import EmbeddingsBody
from webapp.gate import guard
from webapp.gate.idempotency import idempotent
from webapp.llm.messages import ModelRequest

blueprint = openai_door(
    guard(Blueprint("embeddings", __name__, description="OpenAI's API: embeddings"))
)
blueprint.before_request(lambda: limit_body(20 * MEBIBYTE))
idempotent(blueprint)

EXAMPLE = {"model": "text-embedding-3-small", "input": "What is a weir?"}


def asked(body: dict[str, Any]) -> ModelRequest:
    """What a valid body asks of a model: every field as it stands."""
    return ModelRequest(body, body.pop("model", None), call="embeddings", native=False)


@blueprint.post("/embeddings")
@openai_answers_and_errors(streamed=False)
@blueprint.arguments(EmbeddingsBody(), example=EXAMPLE)
@blueprint.response(200)
def embed(body: dict[str, Any]) -> Response:
    """Embeddings, as OpenAI's; any further field reaches the provider as it is"""
    return answers.openai(asked(body))
