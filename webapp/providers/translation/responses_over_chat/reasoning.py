"""What a model has signed, as the encrypted content of items of reasoning.

Claude wants its thinking back with the results of tools, as it was, and Gemini what came with its
calls. A client of Responses sends items of reasoning back with their `encrypted_content`, so that
is where it is kept. Reasoning that nobody signed is marked there: OpenAI takes none but its own.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

OWN = "weir."
THINKING, CALLS, UNSIGNED = f"{OWN}thinking.", f"{OWN}calls.", f"{OWN}unsigned"
TYPES = ("thinking", "redacted_thinking")


def kept_thinking(block: Mapping[str, Any]) -> str:
    """A block of signed or redacted thinking, for the client to keep."""
    return THINKING + _encoded(block)


def thinking_of(content: Any) -> dict[str, Any] | None:
    """The block that encrypted content holds; None if there is none of Anthropic's."""
    block = _decoded(content, THINKING)
    return block if block and block.get("type") in TYPES else None


def kept_extras(model: str, extras: Mapping[str, Any]) -> str:
    """What a model sent with its calls, by their ids, for the client to keep."""
    return CALLS + _encoded({"model": model, "extras": extras})


def extras_of(content: Any, model: str) -> dict[str, Any]:
    """What encrypted content holds of this model's calls."""
    kept = _decoded(content, CALLS) or {}
    extras = kept.get("extras")
    return extras if isinstance(extras, dict) and kept.get("model") == model else {}


def without_own(items: Any) -> Any:
    """The input of a request for OpenAI, without the reasoning of other makers' models."""
    if not isinstance(items, list) or not any(map(_is_own, items)):
        return items
    return [item for item in items if not _is_own(item)]


def _is_own(item: Any) -> bool:
    if not isinstance(item, dict) or item.get("type") != "reasoning":
        return False
    content = item.get("encrypted_content")
    return isinstance(content, str) and content.startswith(OWN)


def _encoded(value: Mapping[str, Any]) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return base64.b64encode(text.encode("utf-8", "surrogatepass")).decode()


def _decoded(content: Any, prefix: str) -> dict[str, Any] | None:
    if not isinstance(content, str) or not content.startswith(prefix):
        return None
    try:
        encoded = base64.b64decode(content.removeprefix(prefix), validate=True)
        value = json.loads(encoded.decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
