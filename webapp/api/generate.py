"""POST /generate: a prompt as it stands."""

from __future__ import annotations

from typing import Any

from webapp.api import answers
from webapp.api.blueprint import MEBIBYTE, Blueprint, limit_body
from webapp.api.documents import answers_and_errors
from webapp.api.schemas import GenerateAnswer, GenerateBody
from webapp.gate import guard
from webapp.gate.idempotency import idempotent
from webapp.llm.messages import ModelRequest, Reply
from webapp.llm.tasks.generate import generate_request
from webapp.observability.record import RequestRecord

blueprint = guard(Blueprint("generate", __name__, description="Generate text"))
blueprint.before_request(lambda: limit_body(MEBIBYTE))
idempotent(blueprint)

EXAMPLE = {"prompt": "Write a haiku about rivers.", "max_tokens": 100}


def asked(body: dict[str, Any]) -> ModelRequest:
    """What a valid body asks of a model."""
    return generate_request(
        body["prompt"],
        max_tokens=body["max_tokens"],
        temperature=body["temperature"],
        model=body["model"],
        stream=body["stream"],
    )


@blueprint.post("/generate")
@answers_and_errors
@blueprint.arguments(GenerateBody(), example=EXAMPLE)
@blueprint.response(200, GenerateAnswer)
def generate(body: dict[str, Any]) -> Any:
    """Continue a prompt"""
    return answers.native(asked(body), _body)


def _body(reply: Reply, noted: RequestRecord) -> dict[str, Any]:
    usage = reply.answer.usage
    return {
        "content": reply.answer.content,
        "model": reply.answer.model,
        "usage": {
            "prompt_tokens": usage.input_tokens,
            "completion_tokens": usage.output_tokens,
            "total_tokens": usage.total_tokens,
        },
        "latency_ms": round(noted.milliseconds, 2),
        "cached": reply.cached,
        "provider": reply.answer.provider,
        "cost_usd": reply.cost_usd,
        "request_id": noted.request_id,
    }
