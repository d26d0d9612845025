"""What the core needs from outside, as Protocols."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from typing import Any, Protocol

from webapp.llm.calls import BillingContext, FlightProgress, ProviderCall, Settlement
from webapp.llm.messages import Answer, Chunk, ModelRequest, Usage
from webapp.llm.stream_usage import StreamUsage


class Provider(Protocol):
    """Something that answers.

    `identity` tells apart providers whose answers must not be mixed in the cache. Both verbs raise
    ProviderError, ModelNotFound where the provider says so, and UnsupportedParameter.
    """

    name: str
    kind: str
    """Its type, as PROVIDER_<NAME>_TYPE has it."""
    identity: str
    openai_family: bool
    """Whether it speaks OpenAI's protocol itself, so that nothing needs translation."""
    max_input_tokens: int | None
    """The longest text, in tokens, that it takes in one piece; None for any length."""

    def answer(self, request: ModelRequest, model: str) -> Answer: ...

    def stream(
        self, request: ModelRequest, model: str, stream_usage: StreamUsage
    ) -> Generator[Chunk | Answer]:
        """The pieces as they come, at last the whole Answer; the meter is told of each chunk."""
        ...

    def default_model(self) -> str | None:
        """The model to use where nobody names one, if the provider has an opinion."""
        ...

    def check(self, timeout: float) -> None:
        """A free call that shows whether it is there. Raises WeirError."""
        ...

    def models(self) -> list[dict[str, Any]]:
        """Its models as OpenAI lists them, by a free call, kept for some minutes.

        Empty where it cannot say.
        """
        ...


class Price(Protocol):
    """What the tokens of a model cost. `max_output` and `context` are in tokens."""

    @property
    def max_output(self) -> int | None: ...

    @property
    def context(self) -> int | None: ...

    @property
    def reasoning(self) -> bool:
        """Whether it may think, at a price, without showing it."""
        ...

    def cost(self, usage: Usage) -> int:
        """Nano-USD, rounded up."""
        ...


class Prices(Protocol):
    """What the providers ask for their models."""

    def of(self, provider: str, kind: str, model: str) -> Price | None:
        """The price of a model; None where it is not known, which is never free."""
        ...


class TokenLimits(Protocol):
    """The tokens a minute that somebody may use."""

    def reserve(self, bucket: str, limit: int, tokens: int, *, named: bool) -> Any:
        """Take the ceiling of a call; `named` says that the client itself named it.

        Raises RateLimitExceeded. Gives what settle() wants.
        """
        ...

    def settle(self, reservation: Any, tokens: int) -> None:
        """Replace the ceiling by what was used. Never raises."""
        ...


class Ledger(Protocol):
    """Knows every call to a provider, from before it is made."""

    def check(self, billing: BillingContext, nano: int | None, unpriced: str | None) -> None:
        """Raise BudgetExceeded or ModelNotPriced where such a call could not be reserved even if
        nobody else held a reservation. StoreUnavailable, too."""
        ...

    def reserve(self, call: ProviderCall) -> int:
        """Write the call at its ceiling; what it is known by from now on.

        Raises BudgetExceeded, BudgetReserved, ModelNotPriced and StoreUnavailable.
        """
        ...

    def settle(self, call_id: int, settlement: Settlement) -> None:
        """Replace the ceiling by what it came to. Never raises, and is never lost."""
        ...


class Span(Protocol):
    """A step of a request's trace, from its making until end(). Never raises."""

    def current(self) -> AbstractContextManager[object]:
        """While this holds, what begins is a part of this step."""
        ...

    def end(self, error: BaseException | None = None, **attributes: str | int) -> None: ...


class CallObserver(Protocol):
    """Watches one call to a provider, from its making until over(). Never raises."""

    def current(self) -> AbstractContextManager[object]:
        """While this holds, what begins is a part of this call."""
        ...

    def chunk(self) -> None:
        """A chunk of its stream has come."""
        ...

    def finished(self, settlement: Settlement, model: str | None) -> None:
        """It came to this; `model` is the one that answered."""
        ...


class Observer(Protocol):
    """Sees what the core does, for metrics and traces. Never raises."""

    def span(self, name: str) -> Span: ...

    def call(self, call: ProviderCall, operation: str, kind: str) -> CallObserver:
        """A call that begins now: `operation` is ModelRequest.call, `kind` the provider's."""
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


class FlightCoordinator(Protocol):
    """Where processes tell each other which calls they make. Never raises: away means alone.

    Entries are JSON-ready; the last one of a flight is its end.
    """

    def claim(self, key: str, flight: str) -> str | None:
        """The flight that is already led under this key, or None: this one leads now."""
        ...

    def is_led(self, key: str) -> bool: ...

    def poll(self, key: str, flight: str, position: int) -> FlightProgress:
        """What has come of another one's flight since `position`; says that somebody follows."""
        ...

    def publish(self, key: str, flight: str, entries: list[Any]) -> None: ...

    def finish(self, key: str, flight: str, rest: Callable[[], list[Any]]) -> None:
        """End the flight if it led; `rest` gives the last entries where somebody follows.

        Without any, the next one may lead.
        """
        ...

    def relinquish(self, key: str) -> None:
        """This process leads no flight under this key, whatever the board says."""
        ...

    def heartbeat(self) -> set[str]:
        """Say that this process lives; the keys of its flights that others have begun to follow
        or still follow, since the last time."""
        ...

    def close(self) -> None:
        """Say that this process leads no more."""
        ...
