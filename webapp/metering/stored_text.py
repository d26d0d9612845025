"""Texts of clients and providers, as databases take them."""

from __future__ import annotations

MAX_MODEL_LENGTH = 256


def cleaned(text: str, max_length: int) -> str:
    """Without what PostgreSQL refuses: NUL, halves of surrogate pairs, more characters."""
    return text.replace("\0", "").encode(errors="replace").decode()[:max_length]
