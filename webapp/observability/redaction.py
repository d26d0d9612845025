"""Takes out of texts what LOG_REDACT names."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

REDACTED = "[redacted]"

Patterns = Sequence[re.Pattern[str]]


def redact(text: str, patterns: Patterns) -> str:
    """The text with REDACTED for whatever a pattern matches."""
    for pattern in patterns:
        text = pattern.sub(_instead, text)
    return text


def redact_json(text: str, patterns: Patterns) -> str:
    """The same for a text of JSON.

    The texts in it are redacted as they were written, as JSON's escapes could hide what is looked
    for; then the whole, for names and numbers. What cannot be read is redacted altogether.
    """
    if not text or not patterns:
        return text
    try:
        clean = each_text(json.loads(text), lambda inner: redact(inner, patterns))
        return redact(json.dumps(clean, ensure_ascii=False), patterns)
    except (ValueError, RecursionError):
        return REDACTED


def each_text(value: Any, change: Callable[[str], str]) -> Any:
    """A copy of a JSON value with every text in it changed; names are no texts."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {name: each_text(inner, change) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [each_text(inner, change) for inner in value]
    return value


def _instead(found: re.Match[str]) -> str:
    # What matches nothing would be found everywhere.
    return REDACTED if found[0] else ""
