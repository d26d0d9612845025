"""Chat: one message with its history."""

from __future__ import annotations

from collections.abc import Sequence

from webapp.llm.messages import ModelRequest, message


def chat_request(
    user_message: str,
    *,
    temperature: float,
    max_tokens: int | None,
    model: str | None,
    system: str | None,
    history: Sequence[dict[str, str]],
    stream: bool,
) -> ModelRequest:
    """The request of a chat: the system prompt, the history, and the new message."""
    opening = [message("system", system)] if system else []
    body = {
        "messages": [*opening, *history, message("user", user_message)],
        "temperature": temperature,
        "max_tokens": max_tokens,
    }
    return ModelRequest(_without_none(body), model, stream=stream)


def _without_none(body: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in body.items() if value is not None}
