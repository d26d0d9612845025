"""Chat: one message, with what was said before it."""

from __future__ import annotations

from collections.abc import Sequence

from webapp.llm.messages import ChatRequest, Message


def chat_request(
    message: str,
    *,
    temperature: float,
    max_tokens: int | None,
    model: str | None,
    system: str | None,
    history: Sequence[Message],
) -> ChatRequest:
    """The request of a chat: the system prompt, the history, the message."""
    opening = (Message("system", system),) if system else ()
    return ChatRequest(
        messages=(*opening, *history, Message("user", message)),
        model=model,
        temperature=temperature,
        max_tokens=max_tokens,
    )
