"""Tokens of texts: estimates and upper bounds, for models whose tokenizer is not known."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

WORD = re.compile(r"[A-Za-z]+|[0-9]+|\s+|.", re.DOTALL)
# Tokenizers split words where lower case ends.
CASED_WORD = re.compile(r"[A-Z]?[a-z]+| +|.", re.DOTALL)

# Of a picture of about a megapixel, and of a file of a few pages.
TOKENS_OF_IMAGE = 1_500
TOKENS_OF_FILE = 5_000
# Fields of messages and tools that are for the API, not for the model.
UNREAD_FIELDS = {"type", "role", "cache_control", "id", "tool_use_id", "signature", "is_error"}


def byte_length(text: str) -> int:
    """The most tokens of a text: no tokenizer makes more of it than it has bytes."""
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


def most_tokens(text: str) -> int:
    """More tokens than tokenizers make of a text, about twice as many: three for five letters of a
    word, one for two spaces, and one for each byte of everything else, as of capitals and digits.
    """
    return sum(map(_most_of_word, CASED_WORD.findall(text)))


def _most_of_word(word: str) -> int:
    if word[-1].islower() and word.isascii():
        return -(-3 * len(word) // 5)
    # A single space belongs to the word after it.
    return len(word) // 2 if word[0] == " " else byte_length(word)


def estimate_input_tokens(body: Mapping[str, Any]) -> int:
    """The estimated tokens of all texts in the messages or in an embeddings input."""
    return _estimate(body.get("messages") or body.get("input"))


def estimate_messages_tokens(body: Mapping[str, Any]) -> int:
    """The estimated tokens of a request of Anthropic's API: its texts, tools, images and files."""
    return sum(
        _estimate_all(body[name]) for name in ("system", "messages", "tools") if name in body
    )


def estimate_responses_tokens(body: Mapping[str, Any]) -> int:
    """The same of a request of OpenAI's Responses."""
    return sum(
        _estimate_all(body[name]) for name in ("instructions", "input", "tools") if name in body
    )


def _estimate_all(value: Any) -> int:
    """The estimated tokens of every name and value, as tools and their calls are all read."""
    if isinstance(value, str):
        return estimate_tokens(value)
    if isinstance(value, list):
        return sum(map(_estimate_all, value))
    if not isinstance(value, dict):
        return 1
    source = value.get("source")
    if isinstance(source, dict) and source.get("type") != "text":
        return TOKENS_OF_IMAGE if value.get("type") == "image" else TOKENS_OF_FILE
    return sum(
        estimate_tokens(name) + _estimate_all(item)
        for name, item in value.items()
        if name not in UNREAD_FIELDS
    )


def _estimate(value: Any) -> int:
    if isinstance(value, str):
        return estimate_tokens(value)
    if isinstance(value, dict):
        return _estimate(value.get("content") or value.get("text"))
    if isinstance(value, list):
        return sum(map(_estimate, value))
    return int(type(value) is int)  # a token
