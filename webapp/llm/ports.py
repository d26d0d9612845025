"""What the core needs from outside, as Protocols, and the terms on which it is asked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from webapp.llm.messages import Answer, CacheState, ChatRequest


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a provider's latest call ended: when (monotonic), and the error's name if it failed."""

    at: float
    error: str | None


class Provider(Protocol):
    """Something that answers.

    `identity` tells apart providers whose answers must not be mixed in the cache. Both verbs raise
    ProviderError, or ModelNotFound where the provider says so.
    """

    name: str
    identity: str
    piece_tokens: int | None
    """The longest text, in tokens, that it takes in one piece; None for any length."""

    def answer(self, request: ChatRequest, model: str) -> Answer: ...

    def stream(self, request: ChatRequest, model: str) -> Iterator[str | Answer]:
        """Pieces of text as they come, at last the whole Answer."""
        ...

    def default_model(self) -> str | None:
        """The model to use where nobody names one, if the provider has an opinion."""
        ...


class AnswerCache(Protocol):
    """Keeps complete answers as JSON-ready dicts. Never raises: away means empty."""

    def get(self, key: str) -> dict[str, Any] | None: ...

    def put(self, key: str, entry: dict[str, Any]) -> None: ...


class Caller(Protocol):
    """Whoever waits for an answer."""

    def check(self) -> None:
        """Raise ClientHungUp or ShuttingDown when waiting on has no sense."""
        ...


@dataclass(frozen=True, slots=True)
class Terms:
    """The terms on which a caller asks.

    `deadline` is monotonic; of a stream, it ends with the first piece. `scope` separates cache
    entries (None: shared). `only_cached` refuses what needs a provider.
    """

    caller: Caller
    deadline: float
    scope: str | None = None
    read_cache: bool = True
    write_cache: bool = True
    max_age: float | None = None
    only_cached: bool = False

    @property
    def missed(self) -> CacheState:
        """What to call an answer that a provider gave on these terms."""
        return CacheState.MISS if self.read_cache else CacheState.BYPASS
