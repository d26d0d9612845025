"""Reasoning that a model has signed, as the encrypted content of an item of Responses.

Claude wants its thinking back with the results of tools, as it was. A client of Responses sends
items of reasoning back with their `encrypted_content`, so that is where it is kept. Reasoning that
nobody signed is marked there: OpenAI takes no reasoning but its own.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

OWN = "weir."
PREFIX = f"{OWN}thinking."
UNSIGNED = f"{OWN}unsigned"
TYPES = ("thinking", "redacted_thinking")


def encrypted_content(block: Mapping[str, Any]) -> str:
    """A block of signed or redacted thinking, for the client to keep."""
    text = json.dumps(block, ensure_ascii=False)
    return PREFIX + base64.b64encode(text.encode("utf-8", "surrogatepass")).decode()


def is_own(content: Any) -> bool:
    """Whether Weir wrote this encrypted content: no other server can read it."""
    return isinstance(content, str) and content.startswith(OWN)


def without_own(items: Any) -> Any:
    """The input of a request for OpenAI, without the reasoning of other makers' models."""
    if not isinstance(items, list) or not any(map(_is_own_item, items)):
        return items
    return [item for item in items if not _is_own_item(item)]


def _is_own_item(item: Any) -> bool:
    is_reasoning = isinstance(item, dict) and item.get("type") == "reasoning"
    return is_reasoning and is_own(item.get("encrypted_content"))


def thinking_block(content: Any) -> dict[str, Any] | None:
    """The block that encrypted content holds; None if there is none of Anthropic's."""
    if not isinstance(content, str) or not content.startswith(PREFIX):
        return None
    try:
        encoded = base64.b64decode(content.removeprefix(PREFIX), validate=True)
        block = json.loads(encoded.decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError):
        return None
    return block if isinstance(block, dict) and block.get("type") in TYPES else None
