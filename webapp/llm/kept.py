"""Answers that were kept: how they are stored, and how they are streamed again."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from typing import Any

from webapp.llm.messages import Answer, CacheState, Origin, Part, Piece, Reply, Usage

REPLAYED_PIECE = 64  # characters of each piece when a kept text is streamed


@dataclass(frozen=True, slots=True)
class Kept:
    """An entry of the cache, with its age in seconds."""

    entry: dict[str, Any]
    age: float


def to_entry(answer: Answer, pieces: Sequence[str], *, native: bool) -> dict[str, Any]:
    """What is kept: of a native answer its text, of any other what the provider sent."""
    entry: dict[str, Any] = {
        "stored_at": time.time(),
        "model": answer.model,
        "provider": answer.provider,
        "usage": astuple(answer.usage),
        "cost_usd": answer.cost_usd,
    }
    if native:
        return entry | {"content": answer.content}
    return entry | ({"pieces": list(pieces)} if pieces else {"body": answer.body})


class KeptStream:
    """A kept answer in the form of a Stream."""

    def __init__(self, kept: Kept, state: CacheState, route: str, streamed: bool) -> None:
        self._parts = _parts(kept, state, route, streamed)

    def next(self, within: float) -> Part:
        return next(self._parts)

    def close(self) -> None:
        """Nothing is open."""


def _parts(kept: Kept, state: CacheState, route: str, streamed: bool) -> Iterator[Part]:
    entry = kept.entry
    origin = Origin(state, route, entry["provider"], age=kept.age)
    content = entry.get("content", "")
    yield origin
    if streamed:
        for data in entry.get("pieces", ()):
            yield Piece(data, "")
        for start in range(0, len(content), REPLAYED_PIECE):
            yield Piece("", content[start : start + REPLAYED_PIECE])
    answer = Answer(
        content=content,
        model=entry["model"],
        provider=entry["provider"],
        usage=Usage(*entry["usage"]),
        cost_usd=entry["cost_usd"],
        body=entry.get("body", ""),
    )
    yield Reply(answer, origin)
