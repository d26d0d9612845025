"""Generate: a single prompt, passed on unchanged."""

from __future__ import annotations

from typing import Any

from webapp.llm.messages import ModelRequest, message


def generate_request(
    prompt: str, *, max_tokens: int, temperature: float | None, model: str | None, stream: bool
) -> ModelRequest:
    """The request of a generation."""
    body: dict[str, Any] = {"messages": [message("user", prompt)], "max_tokens": max_tokens}
    if temperature is not None:
        body["temperature"] = temperature
    return ModelRequest(body, model, stream=stream)
