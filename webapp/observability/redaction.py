"""Takes out of texts what LOG_REDACT names."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

REDACTED = "[redacted]"
# Of what is kept no more is kept, and some patterns take very long for more. The margin is for a
# match that would go on beyond.
MAX_STORED_LENGTH = 20_000  # characters of a prompt or an answer
MARGIN = 1_000

Patterns = Sequence[re.Pattern[str]]


def redact(text: str, patterns: Patterns) -> str:
    """The text with REDACTED for whatever a pattern matches."""
    for pattern in patterns:
        text = pattern.sub(_instead, text)
    return text


def redact_kept(text: str, patterns: Patterns) -> str:
    """As redact(), of as much of a text of any length as is kept."""
    if not patterns or len(text) <= MAX_STORED_LENGTH:
        return redact(text, patterns)
    return redact(text[: MAX_STORED_LENGTH + MARGIN], patterns)[:-MARGIN]


def redact_json(text: str, patterns: Patterns) -> str:
    """As redact_kept(), for a text of JSON.

    The texts in it are redacted as they were written, as JSON's escapes could hide what is looked
    for; then the whole, for names and numbers. What cannot be read is redacted altogether.
    """
    if not text or not patterns:
        return text
    left = MAX_STORED_LENGTH

    def clean(inner: str) -> str:
        nonlocal left
        left -= len(inner)
        # What comes later is not kept.
        return redact_kept(inner, patterns) if left + len(inner) > 0 else ""

    try:
        cleaned = each_text(json.loads(text), clean)
        return redact_kept(json.dumps(cleaned, ensure_ascii=False), patterns)
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
