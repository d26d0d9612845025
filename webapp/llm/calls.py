"""The values around a call to a provider: its options, who pays for it, how it ended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from webapp.llm.messages import CacheState, Usage
from webapp.llm.sessions import Session


class ClientConnection(Protocol):
    """The connection of the client that waits for an answer."""

    def check(self) -> None:
        """Raise ClientHungUp or ShuttingDown when waiting longer is useless."""
        ...


@dataclass(frozen=True, slots=True)
class CacheUse:
    """How a request uses the cache. `scope` separates entries (None: shared); `max_age` (seconds)
    limits the age of an answer."""

    scope: str | None = None
    read: bool = True
    write: bool = True
    max_age: int | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a provider's latest call ended: when (monotonic), and the error's name if it failed."""

    at: float
    error: str | None


@dataclass(frozen=True, slots=True)
class BilledLine:
    """The line of a batch whose calls are billed, and the batch's cost cap (nano-USD) if any."""

    batch_id: str
    number: int
    cap_nano: int | None = None


@dataclass(frozen=True, slots=True)
class BilledSession:
    """A session whose calls are limited to so many nano-USD."""

    id: str
    label: str
    limit_nano: int


@dataclass(frozen=True, slots=True)
class BillingContext:
    """The key that pays for a request's calls, and its budgets: nano-USD per UTC day and month."""

    key_id: int
    request_id: str
    endpoint: str
    usd_per_day: int | None = None
    usd_per_month: int | None = None
    tokens_per_minute: int | None = None
    batch: BilledLine | None = None
    session: BilledSession | None = None

    @property
    def bucket(self) -> str:
        """The name under which its limits are counted, and its circuits: the failures of a key's
        batches keep its other requests away from nothing."""
        return f"key-{self.key_id}-batches" if self.batch else f"key-{self.key_id}"

    @property
    def has_budget(self) -> bool:
        cap = self.batch and self.batch.cap_nano
        limits = (cap, self.session, self.usd_per_day, self.usd_per_month)
        return any(limit is not None for limit in limits)


@dataclass(frozen=True, slots=True)
class ProviderCall:
    """One call to a provider that is about to be made, with its ceiling: tokens, nano-USD."""

    billing: BillingContext
    route: str
    provider: str
    model: str
    attempt: int
    input_tokens: int
    output_tokens: int
    nano: int | None
    unpriced: str | None


class CallState(StrEnum):
    """The state of a call (docs/money.md)."""

    RESERVED = "reserved"
    SETTLED = "settled"
    FAILED = "failed"
    CUT = "cut"
    CANCELLED = "cancelled"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Settlement:
    """What a call used and cost; `nano` is None where its model has no price.

    `model` is the provider's name of the model that answered; `provider_status` and
    `provider_message` are what the provider said where the call failed.
    """

    state: CallState
    usage: Usage
    nano: int | None
    error: str | None = None
    model: str | None = None
    provider_status: int | None = None
    provider_message: str | None = None


@dataclass(frozen=True, slots=True)
class FlightProgress:
    """What a follower reads of another process's flight: new entries, and whether it still runs."""

    entries: list[Any]
    led: bool


@dataclass(frozen=True, slots=True)
class CallOptions:
    """The options of one request.

    `deadline` is monotonic; a stream must have sent its first chunk by then. `only_cached`
    refuses requests that need a provider.
    """

    client: ClientConnection
    billing: BillingContext
    deadline: float
    cache: CacheUse = field(default_factory=CacheUse)
    only_cached: bool = False
    session: Session = Session()
    allows_model: Callable[..., bool] = lambda *_: True
    """Whether a model is allowed, given all its names."""
    routed: Callable[[str, str], object] = lambda *_: None
    """Told the provider and model of each target, before it is tried or refused."""
    failed: Callable[[str, Settlement], object] = lambda *_: None
    """Told the target of each call that failed, and how it was settled."""

    @property
    def uncached_state(self) -> CacheState:
        """The cache state of an answer that a provider gave to this request."""
        return CacheState.MISS if self.cache.read else CacheState.BYPASS
