"""Generate: a single prompt, passed on unchanged."""

from __future__ import annotations

from typing import Any

from webapp.llm.messages import ModelRequest, message

DEFAULT_MAX_TOKENS = 1_000


def generate_request(
    prompt: str,
    *,
    max_tokens: int | None,
    temperature: float | None,
    model: str | None,
    stream: bool,
) -> ModelRequest:
    """The request of a generation."""
    body: dict[str, Any] = {
        "messages": [message("user", prompt)],
        "max_tokens": DEFAULT_MAX_TOKENS if max_tokens is None else max_tokens,
    }
    if temperature is not None:
        body["temperature"] = temperature
    defaults = frozenset({"max_tokens"}) if max_tokens is None else frozenset[str]()
    return ModelRequest(body, model, stream=stream, defaults=defaults)
