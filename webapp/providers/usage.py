"""Reads the usage that a provider reports, and counts tokens where it reports none."""

from __future__ import annotations

from typing import Any

from webapp.llm.messages import ModelRequest, Usage
from webapp.providers.counting import count

MAX_TOKEN_COUNT = 1_000_000_000  # in one call; a larger number is not a valid count
# The fields of a delta that the model did not generate.
NO_TOKENS = frozenset({"role", "id", "type"})


def read_usage(
    usage: Any, request: ModelRequest, model: str, generated: str, service_tier: Any
) -> Usage:
    """The usage of a call. `generated` is all text that may have cost tokens."""
    if isinstance(usage, dict):
        details = usage.get("prompt_tokens_details")
        cached = details.get("cached_tokens") if isinstance(details, dict) else None
        reported = [usage.get("prompt_tokens"), usage.get("completion_tokens") or 0, cached or 0]
        counts = [n for n in reported if type(n) is int and 0 <= n < MAX_TOKEN_COUNT]
        if len(counts) == len(reported):
            return Usage(counts[0], counts[1], min(counts[2], counts[0]))
    return count(request, model, generated)


def generated_text(value: Any) -> str:
    """All text of a message or delta that may cost tokens."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        return "".join(
            generated_text(item) for name, item in value.items() if name not in NO_TOKENS
        )
    return "".join(map(generated_text, value)) if isinstance(value, list) else ""
