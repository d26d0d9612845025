"""POST /generate: text from a prompt."""

from __future__ import annotations

from typing import Any

from webapp.api import answers
from webapp.api.blueprint import MEBIBYTE, AnsweringBlueprint, ModelEndpoint
from webapp.api.openapi import answers_and_errors
from webapp.api.schemas import GenerateAnswer, GenerateBody
from webapp.llm.messages import FinalAnswer, ModelRequest
from webapp.llm.tasks.generate import generate_request
from webapp.observability.request_context import RequestContext

EXAMPLE = {"prompt": "Write a haiku about rivers.", "max_tokens": 100}


def to_model_request(body: dict[str, Any]) -> ModelRequest:
    """The model request of a valid body."""
    return generate_request(
        body["prompt"],
        max_tokens=body["max_tokens"],
        temperature=body["temperature"],
        model=body["model"],
        stream=body["stream"],
    )


blueprint = AnsweringBlueprint(
    "generate",
    __name__,
    description="Generate text",
    max_body=MEBIBYTE,
    model_endpoint=ModelEndpoint("/generate", GenerateBody(), to_model_request),
)


@blueprint.post("/generate")
@answers_and_errors
@blueprint.arguments(GenerateBody(), example=EXAMPLE)
@blueprint.response(200, GenerateAnswer)
def generate(body: dict[str, Any]) -> Any:
    """Generate text from a prompt"""
    return answers.native(to_model_request(body), _body)


def _body(final: FinalAnswer, context: RequestContext) -> dict[str, Any]:
    usage = final.answer.usage
    return {
        "content": final.answer.content,
        "model": final.answer.model,
        "usage": {
            "prompt_tokens": usage.input_tokens,
            "completion_tokens": usage.output_tokens,
            "total_tokens": usage.total_tokens,
        },
        "latency_ms": round(context.milliseconds, 2),
        "cached": final.cached,
        "provider": final.answer.provider,
        "cost_usd": final.cost_usd,
        "request_id": context.request_id,
    }
