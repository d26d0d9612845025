"""Generate: a prompt as it stands."""

from __future__ import annotations

from webapp.llm.messages import ChatRequest, Message


def generate_request(
    prompt: str, *, max_tokens: int, temperature: float | None, model: str | None
) -> ChatRequest:
    """The request of a generation."""
    return ChatRequest(
        messages=(Message("user", prompt),),
        model=model,
        temperature=temperature,
        max_tokens=max_tokens,
    )
