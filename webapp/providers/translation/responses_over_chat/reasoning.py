"""Reasoning that a model has signed, as the encrypted content of an item of Responses.

Claude wants its thinking back with the results of tools, as it was. A client of Responses sends
items of reasoning back with their `encrypted_content`, so that is where it is kept.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

PREFIX = "weir.thinking."
TYPES = ("thinking", "redacted_thinking")


def encrypted_content(block: Mapping[str, Any]) -> str:
    """A block of signed or redacted thinking, for the client to keep."""
    text = json.dumps(block, ensure_ascii=False)
    return PREFIX + base64.b64encode(text.encode("utf-8", "surrogatepass")).decode()


def is_own(content: Any) -> bool:
    """Whether Weir wrote this encrypted content: no other server can read it."""
    return isinstance(content, str) and content.startswith(PREFIX)


def thinking_block(content: Any) -> dict[str, Any] | None:
    """The block that encrypted content holds; None if it is another maker's."""
    if not is_own(content):
        return None
    try:
        encoded = base64.b64decode(content.removeprefix(PREFIX), validate=True)
        block = json.loads(encoded.decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError):
        return None
    return block if isinstance(block, dict) and block.get("type") in TYPES else None
