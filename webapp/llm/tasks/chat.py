"""Chat: one message, with what was said before it."""

from __future__ import annotations

from collections.abc import Sequence

from webapp.llm.messages import ModelRequest, message


def chat_request(
    said: str,
    *,
    temperature: float,
    max_tokens: int | None,
    model: str | None,
    system: str | None,
    history: Sequence[dict[str, str]],
    stream: bool,
) -> ModelRequest:
    """The request of a chat: the system prompt, the history, what is said now."""
    opening = [message("system", system)] if system else []
    body = {
        "messages": [*opening, *history, message("user", said)],
        "temperature": temperature,
        "max_tokens": max_tokens,
    }
    return ModelRequest(_given(body), model, stream=stream)


def _given(body: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in body.items() if value is not None}
