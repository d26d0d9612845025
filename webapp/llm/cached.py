"""Cached answers: the format in which they are stored, and how they are streamed."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from webapp.llm.messages import (
    Answer,
    AnswerMetadata,
    CacheState,
    Chunk,
    FinalAnswer,
    StreamEvent,
    Usage,
)

REPLAY_CHUNK_LENGTH = 64  # characters of each chunk when a cached text is streamed


@dataclass(frozen=True, slots=True)
class CachedAnswer:
    """An entry of the cache, with its age in seconds."""

    entry: dict[str, Any]
    age: float


def to_entry(
    answer: Answer, routed_model: str | None, chunks: Sequence[str], *, native: bool
) -> dict[str, Any]:
    """The entry of an answer: a native answer's text; of any other, what the provider sent."""
    entry: dict[str, Any] = {
        "stored_at": time.time(),
        "model": answer.model,
        "routed_model": routed_model,
        "provider": answer.provider,
        "usage": answer.usage.totals,
        "cost_usd": answer.cost_usd,
    }
    if native:
        return entry | {"content": answer.content}
    return entry | ({"pieces": list(chunks)} if chunks else {"body": answer.body})


class CachedStream:
    """A cached answer in the form of a Stream."""

    def __init__(self, cached: CachedAnswer, state: CacheState, route: str, streamed: bool) -> None:
        self._events = _events(cached, state, route, streamed)

    def next(self, within: float) -> StreamEvent:
        return next(self._events)

    def close(self) -> None:
        """Nothing is open."""


def _events(
    cached: CachedAnswer, state: CacheState, route: str, streamed: bool
) -> Iterator[StreamEvent]:
    entry = cached.entry
    # Entries of earlier versions have only the name that the provider gave.
    model = entry.get("routed_model") or entry["model"]
    metadata = AnswerMetadata(state, route, entry["provider"], age=cached.age, model=model)
    content = entry.get("content", "")
    yield metadata
    if streamed:
        for data in entry.get("pieces", ()):
            yield Chunk(data, "")
        for start in range(0, len(content), REPLAY_CHUNK_LENGTH):
            yield Chunk("", content[start : start + REPLAY_CHUNK_LENGTH])
    answer = Answer(
        content=content,
        model=entry["model"],
        provider=entry["provider"],
        usage=Usage(*entry["usage"]),
        cost_usd=entry["cost_usd"],
        body=entry.get("body", ""),
    )
    yield FinalAnswer(answer, metadata)
