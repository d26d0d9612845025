"""POST /chat: one message to a model."""

from __future__ import annotations

from typing import Any

from webapp.api import answers
from webapp.api.blueprint import MEBIBYTE, Blueprint, limit_body
from webapp.api.documents import answers_and_errors
from webapp.api.schemas import ChatAnswer, ChatBody
from webapp.gate import guard
from webapp.gate.idempotency import idempotent
from webapp.llm.messages import ModelRequest, Reply
from webapp.llm.tasks.chat import chat_request
from webapp.observability.record import RequestRecord

blueprint = guard(Blueprint("chat", __name__, description="Talk with a model"))
blueprint.before_request(lambda: limit_body(MEBIBYTE))
idempotent(blueprint)

EXAMPLE = {"message": "What is a weir?", "max_tokens": 200}


def asked(body: dict[str, Any]) -> ModelRequest:
    """What a valid body asks of a model."""
    return chat_request(
        body["message"],
        temperature=body["temperature"],
        max_tokens=body["max_tokens"],
        model=body["model"],
        system=body["system"],
        history=body["history"],
        stream=body["stream"],
    )


@blueprint.post("/chat")
@answers_and_errors
@blueprint.arguments(ChatBody(), example=EXAMPLE)
@blueprint.response(200, ChatAnswer)
def chat(body: dict[str, Any]) -> Any:
    """Answer a message, with what was said before it"""
    return answers.native(asked(body), describe)


def describe(reply: Reply, noted: RequestRecord) -> dict[str, Any]:
    """The body of an answer."""
    return {"response": reply.answer.content, **answers.tail(reply, noted)}
