"""Checks answers: a good one has the whole text of the upstream, in the right protocol."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Any

from benchmarks.exchange import Exchange
from benchmarks.upstream import CHUNK_TEXT, CHUNKS

TEXT = CHUNK_TEXT * CHUNKS
DATA = b"data: "
DONE = b"data: [DONE]"


class Protocol(StrEnum):
    """The protocol of a gateway: Weir's own, or OpenAI's."""

    NATIVE = "native"
    OPENAI = "openai"

    def is_good(self, exchange: Exchange) -> bool:
        """Whether a plain answer has the whole text of the upstream."""
        try:
            return exchange.status == 200 and self._text(json.loads(exchange.body)) == TEXT
        except (ValueError, LookupError):
            return False

    def is_good_stream(self, exchange: Exchange) -> bool:
        """Whether it is a 200 with every chunk of the upstream, and ends in `[DONE]`."""
        try:
            lines = [line for line in exchange.body.splitlines() if line.startswith(DATA)]
            events = [json.loads(line.removeprefix(DATA)) for line in lines if line != DONE]
            texts = [text for text in map(self._chunk_text, events) if text]
            is_whole = texts == [CHUNK_TEXT] * CHUNKS and lines[-1:] == [DONE]
            return exchange.status == 200 and is_whole
        except (ValueError, LookupError):
            return False

    def _text(self, answer: dict[str, Any]) -> str:
        if self is Protocol.NATIVE:
            return answer["response"]
        return answer["choices"][0]["message"]["content"]

    def _chunk_text(self, event: dict[str, Any]) -> str | None:
        if self is Protocol.NATIVE:
            return event.get("content")
        return event["choices"][0]["delta"].get("content") if event["choices"] else None
