"""What the core needs from other layers, as Protocols."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Hashable, Iterable
from contextlib import AbstractContextManager
from typing import Any, Protocol

from webapp.llm.calls import BillingContext, FlightProgress, ProviderCall, Settlement
from webapp.llm.messages import Answer, Chunk, ModelRequest, Operation, Usage
from webapp.llm.stream_usage import StreamUsage


class Provider(Hashable, Protocol):
    """Answers model requests.

    `identity` separates providers whose answers must not be mixed in the cache. `answer` and
    `stream` raise ProviderError, UnsupportedParameter, and ModelNotFound if the provider reports
    that.
    """

    name: str
    kind: str
    """Its type, as in PROVIDER_<NAME>_TYPE."""
    identity: str
    openai_family: bool
    """Whether it speaks OpenAI's protocol itself, so that nothing needs translation."""
    max_input_tokens: int | None
    """The longest text, in tokens, that it accepts in one request; None for any length."""

    def operations_of(self, model: str) -> frozenset[Operation]:
        """The formats that it speaks with this model, as far as is known."""
        ...

    def refusal(self, operation: Operation) -> str | None:
        """Why it can answer no request of this operation; None if it can."""
        ...

    def answer(self, request: ModelRequest, model: str) -> Answer: ...

    def stream(
        self, request: ModelRequest, model: str, stream_usage: StreamUsage
    ) -> Generator[Chunk | Answer]:
        """The chunks as they arrive, then the whole Answer. Counts each chunk in `stream_usage`."""
        ...

    def count_tokens(self, request: ModelRequest, model: str) -> str | None:
        """The tokens of a request of Anthropic's API by a free call, as JSON text.

        None if the provider has no such call. Raises as `answer`.
        """
        ...

    def stored_response(self, method: str, path: str) -> str:
        """What a free call below `/responses` answers, as JSON text.

        Raises NotFound where it does not keep that response (any more), and else as `answer`.
        """
        ...

    def default_model(self) -> str | None:
        """The model to use where none is named, if the provider has a default."""
        ...

    def check(self, timeout: float) -> int:
        """A free call that shows whether it is available: how many models it lists. Raises
        WeirError."""
        ...

    def models(self) -> list[dict[str, Any]]:
        """Its models in OpenAI's format, by a free call, cached for some minutes.

        Empty if they are not known.
        """
        ...


class Price(Protocol):
    """What a model costs. `max_output` and `context` are in tokens."""

    @property
    def max_output(self) -> int | None: ...

    @property
    def context(self) -> int | None: ...

    @property
    def reasoning(self) -> bool:
        """Whether it may produce hidden reasoning tokens, which cost money."""
        ...

    @property
    def source(self) -> str:
        """Where it comes from, such as `MODEL_PRICES`."""
        ...

    @property
    def tiers(self) -> frozenset[str]:
        """The service tiers that have rates of their own, beside the standard one."""
        ...

    @property
    def is_free(self) -> bool:
        """Whether tokens cost nothing at any tier."""
        ...

    def has_rates(self, tiers: Collection[str]) -> bool:
        """Whether tokens have a price at each of these tiers."""
        ...

    def cost(self, usage: Usage) -> int | None:
        """Nano-USD, rounded up, at the usage's service tier; None if a part has no price.

        A tier that nobody knows costs as the dearest; one that is cheaper by its nature (`flex`,
        `batch`) costs as the standard tier where it has no rates; any other has no price then.
        """
        ...

    def dearest(self, usage: Usage, tiers: Collection[str] | None) -> int | None:
        """The most that this usage, or a smaller one, can cost at any of these tiers.

        None stands for all tiers. Plain input counts as written to the provider's cache where the
        maker does that unasked. Returns None if a part has no price at one of the tiers.
        """
        ...


class Prices(Protocol):
    """The prices of the providers' models."""

    def of(self, provider: str, kind: str, model: str) -> Price | None:
        """The price of a model; None if unknown, which does not mean free."""
        ...


class TokenLimits(Protocol):
    """Limits on tokens per minute."""

    def reserve(self, bucket: str, limit: int, tokens: int, *, named: bool) -> Any:
        """Reserve the ceiling of a call; `named` says that the client itself limited its output.

        Raises RateLimitExceeded. Returns the reservation for settle().
        """
        ...

    def settle(self, reservation: Any, tokens: int) -> None:
        """Replace the ceiling by the tokens used. Never raises."""
        ...


class Ledger(Protocol):
    """Records every provider call, starting before it is made."""

    def check(self, billing: BillingContext, nano: int | None, unpriced: str | None) -> None:
        """Raise BudgetExceeded, SessionLimitExceeded or ModelNotPriced if such a call could not be
        reserved even without any other reservation. Raises StoreUnavailable, too."""
        ...

    def reserve(self, call: ProviderCall) -> int:
        """Record the call at its ceiling, and return its id.

        Raises BudgetExceeded, BudgetReserved, SessionLimitExceeded, ModelNotPriced and
        StoreUnavailable.
        """
        ...

    def settle(self, call_id: int, settlement: Settlement) -> None:
        """Replace the ceiling by the actual cost. Never raises, and is never lost."""
        ...


class Span(Protocol):
    """A step of a request's trace, from its creation until end(). Never raises."""

    def current(self) -> AbstractContextManager[object]:
        """Spans started in this context are children of this one."""
        ...

    def end(self, error: BaseException | None = None, **attributes: str | int) -> None: ...


class CallObserver(Protocol):
    """Observes one provider call, from its creation until finished(). Never raises."""

    def current(self) -> AbstractContextManager[object]:
        """Spans started in this context are children of this call."""
        ...

    def chunk(self) -> None:
        """A chunk of its stream has arrived."""
        ...

    def finished(self, settlement: Settlement, model: str | None) -> None:
        """The call has ended; `model` is the one that answered."""
        ...


class Observer(Protocol):
    """Observes the core, for metrics and traces. Never raises."""

    def span(self, name: str) -> Span: ...

    def redact(self, words: str) -> str:
        """A provider's words without secrets, and without what the operator wants redacted."""
        ...

    def call(self, call: ProviderCall, operation: str, kind: str) -> CallObserver:
        """A call that begins now: `operation` is the request's, `kind` the provider's."""
        ...


class Breakers(Protocol):
    """Keeps calls away from circuits that fail repeatedly: a target and an operation.

    `who` is the key whose request it is. Never raises.
    """

    def allows(self, circuit: str, who: str) -> bool:
        """Whether it may be called now; one probe is let through when a pause is over."""
        ...

    def answered(self, circuit: str, who: str) -> None:
        """An answer has begun; succeeded() or failed() will tell how it ended."""
        ...

    def succeeded(self, circuit: str, who: str) -> None: ...

    def failed(
        self, circuit: str, who: str, retry_after: float | None, *, unreachable: bool
    ) -> None:
        """A request failed, after all its attempts."""
        ...

    def abandoned(self, circuit: str, who: str) -> None:
        """The request ended without a result that says anything about the circuit."""
        ...

    def is_open_for_all(self, circuit: str) -> bool:
        """Whether not only some keys are kept away from it."""
        ...

    def opens_in(self, circuit: str, who: str) -> float:
        """Seconds until a probe may be let through."""
        ...


class BusyTargets(Protocol):
    """Learns which targets refuse calls that somebody waits for. Never raises."""

    def report(self, target: str, retry_after: float | None) -> None:
        """A target, by its name, answered 429; `retry_after` is in seconds."""
        ...


class AnswerCache(Protocol):
    """Stores complete answers as JSON-ready dicts. Never raises: while unavailable, it is empty."""

    ttl: int
    """Seconds for which an answer is fresh; 0 turns the cache off."""
    stale_for: int
    """Seconds, from its creation, for which an answer may be used when providers fail."""

    def get(self, key: str) -> dict[str, Any] | None: ...

    def put(self, key: str, entry: dict[str, Any]) -> None: ...


class ResponseIds(Protocol):
    """Remembers for 30 days which provider keeps a response, and which key it belongs to."""

    def remember(self, response_id: str, key_id: int, provider: str, model: str) -> None:
        """Never raises, and is not lost while this process runs."""
        ...

    def target_of(self, response_id: str, key_id: int) -> tuple[str, str]:
        """Provider and model that made it. Raises NotFound and StoreUnavailable."""
        ...

    def forget(self, response_id: str, key_id: int) -> None:
        """It was deleted. Raises StoreUnavailable."""
        ...


class FlightCoordinator(Protocol):
    """Shares running calls between processes. Never raises: while unavailable, nothing is shared.

    Entries are JSON-ready; the last one of a flight is its end.
    """

    def claim(self, key: str, flight: str) -> str | None:
        """The flight that already leads this key; None if the given flight leads now."""
        ...

    def is_led(self, key: str) -> bool: ...

    def poll(self, key: str, flight: str, position: int) -> FlightProgress:
        """The entries of another process's flight since `position`; marks it as followed."""
        ...

    def publish(self, key: str, flight: str, entries: list[Any]) -> None: ...

    def finish(self, key: str, flight: str, last_entries: Callable[[], list[Any]]) -> None:
        """End the flight if it led; `last_entries` is called if the flight has followers.

        If it returns none, a follower may lead.
        """
        ...

    def relinquish(self, key: str) -> None:
        """Give up the lead of this key: this process runs no flight for it."""
        ...

    def heartbeat(self) -> set[str]:
        """Renew this process's lease. Returns the keys of its flights that other processes have
        followed since the last heartbeat."""
        ...

    def renew(self, flights: Iterable[tuple[str, str]]) -> None:
        """Keep these flights (key, flight) that this process leads: others go after half a
        minute."""
        ...

    def close(self) -> None:
        """Give up the lead of all flights of this process."""
        ...
