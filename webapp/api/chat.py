"""POST /chat: one message to a model."""

from __future__ import annotations

from typing import Any

from webapp.api import answers
from webapp.api.blueprint import MEBIBYTE, Blueprint, limit_body
from webapp.api.documents import answers_and_errors
from webapp.api.schemas import ChatAnswer, ChatBody
from webapp.gate import guard
from webapp.llm.messages import Message, Reply
from webapp.llm.tasks.chat import chat_request
from webapp.observability.record import RequestRecord
from webapp.services import services

blueprint = guard(Blueprint("chat", __name__, description="Talk with a model"))
blueprint.before_request(lambda: limit_body(MEBIBYTE))

EXAMPLE = {"message": "What is a weir?", "max_tokens": 200}


@blueprint.post("/chat")
@answers_and_errors
@blueprint.arguments(ChatBody(), example=EXAMPLE)
@blueprint.response(200, ChatAnswer)
def chat(body: dict[str, Any]) -> Any:
    """Answer a message, with what was said before it"""
    gateway, terms = services().gateway, answers.terms(streamed=body["stream"])
    asked = chat_request(
        body["message"],
        temperature=body["temperature"],
        max_tokens=body["max_tokens"],
        model=body["model"],
        system=body["system"],
        history=[Message(entry["role"], entry["content"]) for entry in body["history"]],
    )
    if body["stream"]:
        return answers.stream(lambda: gateway.stream(asked, terms), terms, _body)
    return answers.answer(gateway.answer(asked, terms), _body)


def _body(reply: Reply, noted: RequestRecord) -> dict[str, Any]:
    return {"response": reply.answer.content, **answers.tail(reply, noted)}
