"""Upper bounds of a request's input tokens, and estimates where a provider counts none."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

# The tokens of a message in addition to its text: its role and its delimiters.
TOKENS_PER_MESSAGE = 16
# The most that any provider charges for an image of any size, and for one in low detail.
TOKENS_PER_IMAGE = 50_000
TOKENS_PER_LOW_DETAIL_IMAGE = 5_000
WORD = re.compile(r"[A-Za-z]+|[0-9]+|\s+|.", re.DOTALL)


def input_bound(body: Mapping[str, Any]) -> int:
    """An upper bound of the input tokens of a request's body.

    No tokenizer makes more tokens of a text than it has bytes. Audio and files count by their size.
    """
    inputs = body.get("input")
    if inputs is not None:
        return _bound_of_input(inputs)
    bound = TOKENS_PER_MESSAGE
    for name in ("tools", "functions", "response_format"):
        if body.get(name):
            bound += len(json.dumps(body[name]))
    messages = body.get("messages")
    for message in messages if isinstance(messages, list) else ():
        bound += TOKENS_PER_MESSAGE + _bound(message)
    return bound


def _bound_of_input(inputs: Any) -> int:
    """The bound of an embeddings input: a text, tokens, or a list of either."""
    if isinstance(inputs, str):
        return TOKENS_PER_MESSAGE + _bytes(inputs)
    if not isinstance(inputs, list):
        return TOKENS_PER_MESSAGE
    return sum(1 if isinstance(item, int) else _bound_of_input(item) for item in inputs)


def _bound(value: Any) -> int:
    if isinstance(value, str):
        return _bytes(value)
    if isinstance(value, list):
        return sum(map(_bound, value))
    if not isinstance(value, dict):
        return 8
    if value.get("type") == "image_url":
        image = value.get("image_url")
        small = isinstance(image, dict) and image.get("detail") == "low"
        return TOKENS_PER_LOW_DETAIL_IMAGE if small else TOKENS_PER_IMAGE
    return sum(_bound(item) for item in value.values())


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def estimate_tokens(text: str) -> int:
    """The estimated tokens of a text: one for four letters or three digits of a word, one for a
    punctuation mark, two for a character that is not ASCII."""
    return sum(map(_estimate_word, WORD.findall(text)))


def _estimate_word(word: str) -> int:
    if word[0].isspace():
        return max(0, word.count("\n") - 1)
    if not word.isascii():
        return 2
    return -(-len(word) // (3 if word[0].isdigit() else 4))


def estimate_input_tokens(body: Mapping[str, Any]) -> int:
    """The estimated tokens of all texts in the messages or in an embeddings input."""
    return sum(map(estimate_tokens, texts_of(body.get("messages") or body.get("input"))))


def texts_of(value: Any) -> list[str]:
    """All texts in messages or in an embeddings input."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        value = [value.get("content") or value.get("text")]
    return [text for part in value for text in texts_of(part)] if isinstance(value, list) else []
