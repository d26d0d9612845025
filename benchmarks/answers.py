"""Which answers are good: those that hold all that the upstream said, in the asked protocol."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Any

from benchmarks.exchange import Exchange
from benchmarks.upstream import PIECE, PIECES

TEXT = PIECE * PIECES
DATA = b"data: "
DONE = b"data: [DONE]"


class Protocol(StrEnum):
    """How a gateway speaks: as Weir's own endpoints do, or as OpenAI's."""

    NATIVE = "native"
    OPENAI = "openai"

    def is_good(self, exchange: Exchange) -> bool:
        """Whether a plain answer says all that the upstream said."""
        try:
            return exchange.status == 200 and self._text(json.loads(exchange.body)) == TEXT
        except (ValueError, LookupError):
            return False

    def is_good_stream(self, exchange: Exchange) -> bool:
        """Whether it is a 200 with every piece of the upstream, and ends in `[DONE]`."""
        try:
            lines = [line for line in exchange.body.splitlines() if line.startswith(DATA)]
            chunks = [json.loads(line.removeprefix(DATA)) for line in lines if line != DONE]
            pieces = [piece for piece in map(self._piece, chunks) if piece]
            is_whole = pieces == [PIECE] * PIECES and lines[-1:] == [DONE]
            return exchange.status == 200 and is_whole
        except (ValueError, LookupError):
            return False

    def _text(self, answer: dict[str, Any]) -> str:
        if self is Protocol.NATIVE:
            return answer["response"]
        return answer["choices"][0]["message"]["content"]

    def _piece(self, chunk: dict[str, Any]) -> str | None:
        if self is Protocol.NATIVE:
            return chunk.get("content")
        return chunk["choices"][0]["delta"].get("content") if chunk["choices"] else None
