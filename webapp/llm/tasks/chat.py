"""Chat: one message with its history."""

from __future__ import annotations

from collections.abc import Sequence

from webapp.llm.messages import ModelRequest, message

DEFAULT_TEMPERATURE = 0.7


def chat_request(
    user_message: str,
    *,
    temperature: float | None,
    max_tokens: int | None,
    model: str | None,
    system: str | None,
    history: Sequence[dict[str, str]],
    stream: bool,
) -> ModelRequest:
    """The request of a chat: the system prompt, the history, and the new message."""
    opening = [message("system", system)] if system else []
    body: dict[str, object] = {
        "messages": [*opening, *history, message("user", user_message)],
        "temperature": DEFAULT_TEMPERATURE if temperature is None else temperature,
    }
    if max_tokens is not None:
        body["max_tokens"] = max_tokens
    defaults = frozenset({"temperature"}) if temperature is None else frozenset[str]()
    return ModelRequest(body, model, stream=stream, defaults=defaults)
