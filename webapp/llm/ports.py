"""What the core needs from outside, as Protocols, and the terms on which it is asked."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Protocol

from webapp.llm.messages import Answer, CacheState, ModelRequest, Piece


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a provider's latest call ended: when (monotonic), and the error's name if it failed."""

    at: float
    error: str | None


class Provider(Protocol):
    """Something that answers.

    `identity` tells apart providers whose answers must not be mixed in the cache. Both verbs raise
    ProviderError, ModelNotFound where the provider says so, and UnsupportedParameter.
    """

    name: str
    identity: str
    openai_family: bool
    """Whether it speaks OpenAI's protocol itself, so that nothing needs translation."""
    piece_tokens: int | None
    """The longest text, in tokens, that it takes in one piece; None for any length."""

    def answer(self, request: ModelRequest, model: str) -> Answer: ...

    def stream(self, request: ModelRequest, model: str) -> Generator[Piece | Answer]:
        """The pieces as they come, at last the whole Answer."""
        ...

    def default_model(self) -> str | None:
        """The model to use where nobody names one, if the provider has an opinion."""
        ...

    def models(self) -> list[dict[str, Any]]:
        """Its models as OpenAI lists them, by a free call, kept for some minutes.

        Empty where it cannot say.
        """
        ...


class Breakers(Protocol):
    """Keeps calls away from targets that fail repeatedly. Never raises."""

    def allows(self, target: str) -> bool:
        """Whether it may be called now; one probe is let through when a pause is over."""
        ...

    def succeeded(self, target: str) -> None: ...

    def failed(self, target: str, retry_after: int | None) -> None: ...

    def abandoned(self, target: str) -> None:
        """The call ended without telling anything of the target."""
        ...

    def opens_in(self, target: str) -> float:
        """Seconds until a probe may be let through."""
        ...


class AnswerCache(Protocol):
    """Keeps complete answers as JSON-ready dicts. Never raises: away means empty."""

    ttl: int
    """Seconds for which an answer is fresh; 0 turns the cache off."""
    stale_for: int
    """Seconds, from its making, for which an answer may stand in for a failing provider."""

    def get(self, key: str) -> dict[str, Any] | None: ...

    def put(self, key: str, entry: dict[str, Any]) -> None: ...


@dataclass(frozen=True, slots=True)
class Seen:
    """What a follower sees of a flight led elsewhere: new entries, and whether it is still led."""

    entries: list[Any]
    led: bool


class FlightBoard(Protocol):
    """Where processes tell each other which calls they make. Never raises: away means alone.

    Entries are JSON-ready; the last one of a flight is its end.
    """

    def claim(self, key: str, flight: str) -> str | None:
        """The flight that is already led under this key, or None: this one leads now."""
        ...

    def is_led(self, key: str) -> bool: ...

    def look(self, key: str, flight: str, position: int) -> Seen:
        """What has come of another one's flight since `position`; says that somebody follows."""
        ...

    def publish(self, key: str, flight: str, entries: list[Any]) -> None: ...

    def finish(self, key: str, flight: str, rest: Callable[[], list[Any]]) -> None:
        """End the flight if it led; `rest` gives the last entries where somebody follows.

        Without any, the next one may lead.
        """
        ...

    def disown(self, key: str) -> None:
        """This process leads no flight under this key, whatever the board says."""
        ...

    def beat(self) -> set[str]:
        """Say that this process lives; the keys of its flights that others have begun to follow
        or still follow, since the last time."""
        ...

    def close(self) -> None:
        """Say that this process leads no more."""
        ...


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
    def led(self) -> CacheState:
        """What to call an answer that a provider gave to this caller."""
        return CacheState.MISS if self.read_cache else CacheState.BYPASS
