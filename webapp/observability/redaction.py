"""Redacts the patterns of LOG_REDACT in texts that are logged."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

REDACTED = "[redacted]"
# Only this much is stored, and some patterns are very slow on longer texts. The margin is for a
# match that extends beyond the end.
MAX_STORED_LENGTH = 20_000  # characters of a prompt or an answer
MARGIN = 1_000

Patterns = Sequence[re.Pattern[str]]


def redact(text: str, patterns: Patterns) -> str:
    """The text with every match of a pattern replaced by REDACTED."""
    for pattern in patterns:
        text = pattern.sub(_replacement, text)
    return text


def redact_stored(text: str, patterns: Patterns) -> str:
    """Like redact(), for the part of a text that is stored."""
    if not patterns or len(text) <= MAX_STORED_LENGTH:
        return redact(text, patterns)
    return redact(text[: MAX_STORED_LENGTH + MARGIN], patterns)[:-MARGIN]


def redact_json(text: str, patterns: Patterns) -> str:
    """Like redact_stored(), for JSON.

    Strings are decoded and redacted first, as JSON's escapes could hide a match; then the whole
    text is, for names and numbers. A text that is not valid JSON becomes REDACTED.
    """
    if not text or not patterns:
        return text
    remaining = MAX_STORED_LENGTH

    def clean(inner: str) -> str:
        nonlocal remaining
        remaining -= len(inner)
        # Text beyond the limit is not stored.
        return redact_stored(inner, patterns) if remaining + len(inner) > 0 else ""

    try:
        cleaned = each_text(json.loads(text), clean)
        return redact_stored(json.dumps(cleaned, ensure_ascii=False), patterns)
    except (ValueError, RecursionError):
        return REDACTED


def each_text(value: Any, change: Callable[[str], str]) -> Any:
    """A copy of a JSON value with every string in it changed, except names of fields."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {name: each_text(inner, change) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [each_text(inner, change) for inner in value]
    return value


def _replacement(found: re.Match[str]) -> str:
    # A pattern that can match the empty string would match everywhere.
    return REDACTED if found[0] else ""
