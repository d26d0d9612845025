"""What a limit on requests is, and how it stands after a request."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from limits import RateLimitItem

from webapp.allowance import Allowance

DAY = 86_400  # seconds
LEASE_TTL = 10  # seconds that a running request counts without a sign of its worker

Kind = Literal["window", "day", "parallel", "tokens"]


@dataclass(frozen=True, slots=True)
class Limit:
    """One limit; `length` is in seconds."""

    kind: Kind
    name: str
    amount: int
    length: int


@dataclass(frozen=True, slots=True)
class LimitState:
    """One limit after a request: `reset` (Unix seconds) is when its next place becomes free."""

    limit: Limit
    used: int
    reset: float

    @property
    def remaining(self) -> int:
        return max(0, self.limit.amount - self.used)


@dataclass(frozen=True, slots=True)
class Decision:
    """What became of a request: allowed or not, and the state of each of its limits."""

    allowed: bool
    now: float
    states: tuple[LimitState, ...]

    @property
    def tightest(self) -> LimitState:
        """The limit on requests in time with the least left; of several, the one that frees a
        place last."""
        counted = [state for state in self.states if state.limit.kind in {"window", "day"}]
        return min(counted, key=lambda state: (state.remaining, -state.reset))

    @property
    def exhausted(self) -> LimitState:
        """The limit that has nothing left; of several, the one that frees a place last."""
        full = [w for w in self.states if not w.remaining and w.limit.kind != "tokens"]
        return max(full, key=lambda state: state.reset)

    @property
    def tokens(self) -> LimitState | None:
        return next((w for w in self.states if w.limit.kind == "tokens"), None)

    @property
    def retry_after(self) -> int:
        """Whole seconds until every limit has a place again, rounded up."""
        return max(1, math.ceil(self.exhausted.reset - self.now))


@lru_cache(10_000)
def limits_of(allowance: Allowance) -> tuple[Limit, ...]:
    """The limits on the requests of whoever has this allowance."""
    limits = [*window_limits(allowance.windows)]
    if allowance.requests_per_day is not None:
        limits.append(Limit("day", "requests_per_day", allowance.requests_per_day, DAY))
    if allowance.parallel_requests is not None:
        limits.append(
            Limit("parallel", "parallel_requests", allowance.parallel_requests, LEASE_TTL)
        )
    if allowance.tokens_per_minute is not None:
        limits.append(Limit("tokens", "tokens_per_minute", allowance.tokens_per_minute, 60))
    return tuple(limits)


@lru_cache(1_000)
def window_limits(items: tuple[RateLimitItem, ...]) -> tuple[Limit, ...]:
    """Limits as Flask-Limiter writes them."""
    return tuple(Limit("window", str(item), item.amount, item.get_expiry()) for item in items)
