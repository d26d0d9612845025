"""POST /chat: one message to a model."""

from __future__ import annotations

from typing import Any

from webapp.api import answers
from webapp.api.blueprint import MEBIBYTE, AnsweringBlueprint, ModelEndpoint
from webapp.api.openapi import answers_and_errors
from webapp.api.schemas import ChatAnswer, ChatBody
from webapp.llm.messages import FinalAnswer, ModelRequest
from webapp.llm.tasks.chat import chat_request
from webapp.observability.request_context import RequestContext

EXAMPLE = {"message": "What is a weir?", "max_tokens": 200}


def to_model_request(body: dict[str, Any]) -> ModelRequest:
    """The model request of a valid body."""
    return chat_request(
        body["message"],
        temperature=body["temperature"],
        max_tokens=body["max_tokens"],
        model=body["model"],
        system=body["system"],
        history=body["history"],
        stream=body["stream"],
    )


blueprint = AnsweringBlueprint(
    "chat",
    __name__,
    description="Chat with a model",
    max_body=MEBIBYTE,
    model_endpoint=ModelEndpoint("/chat", ChatBody(), to_model_request),
)


@blueprint.post("/chat")
@answers_and_errors
@blueprint.arguments(ChatBody(), example=EXAMPLE)
@blueprint.response(200, ChatAnswer)
def chat(body: dict[str, Any]) -> Any:
    """Answer a message, given the conversation so far"""
    return answers.native(to_model_request(body), describe)


def describe(final: FinalAnswer, context: RequestContext) -> dict[str, Any]:
    """The response body of an answer."""
    return {"response": final.answer.content, **answers.tail(final, context)}
