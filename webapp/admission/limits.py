"""Tier limits on Flask-Limiter, and the limit on failed credentials."""

from __future__ import annotations

import hashlib
import math
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from ipaddress import IPv6Address, ip_address
from itertools import count
from typing import Any, cast

from flask import Flask, g
from limits import RateLimitItem, RateLimitItemPerMinute
from limits.strategies import STRATEGIES, RateLimiter
from limits.util import WindowStats

from webapp.admission.identity import Principal
from webapp.admission.rate_limits import Decision, Limit, LimitState, limits_of, window_limits
from webapp.errors import RateLimitExceeded
from webapp.extensions import limiter
from webapp.library_internals import bind_without_hooks
from webapp.services import services

STRATEGY = "weir-sliding-window"
FAILED_CREDENTIAL_LIMIT = window_limits((RateLimitItemPerMinute(30),))
SIGN_INS_PER_ACCOUNT = window_limits((RateLimitItemPerMinute(10),))
SIGN_INS_PER_ADDRESS = window_limits((RateLimitItemPerMinute(30),))

# Tells apart the requests of all processes.
_process = uuid.uuid4().hex
_numbers = count()


class SlidingWindowStrategy(RateLimiter):
    """The strategy that Flask-Limiter is configured with: windows that pass or fail as one."""

    def acquire(self, bucket: str, limits: Sequence[Limit], request: str = "-") -> Decision:
        """Take a request from every limit of a bucket, or from none."""
        return services().rate_limits.acquire(bucket, limits, request)

    def hit(self, item: RateLimitItem, *identifiers: str, cost: int = 1) -> bool:
        return all(
            self.acquire(":".join(identifiers), window_limits((item,))).allowed for _ in range(cost)
        )

    def test(self, item: RateLimitItem, *identifiers: str, cost: int = 1) -> bool:
        decision = services().rate_limits.peek(":".join(identifiers), window_limits((item,)))
        return decision.states[0].remaining >= cost

    def get_window_stats(self, item: RateLimitItem, *identifiers: str) -> WindowStats:
        state = services().rate_limits.peek(":".join(identifiers), window_limits((item,))).states[0]
        return WindowStats(state.reset, state.remaining)


STRATEGIES[STRATEGY] = SlidingWindowStrategy  # type: ignore[assignment]


def configure(app: Flask) -> None:
    """Bind Flask-Limiter. Its own storage stays unused: the strategy keeps the windows."""
    app.config.update(RATELIMIT_STRATEGY=STRATEGY, RATELIMIT_STORAGE_URI="memory://")
    bind_without_hooks(limiter, app)


def consume() -> None:
    """Count this request. Raises RateLimitExceeded, which says which limit and until when.

    Asks Flask-Limiter's strategy itself: its decorators know no tier before the request is
    identified, take limit by limit, and would cost a tenth of a cached answer.
    """
    principal: Principal = g.principal
    request = f"{_process}.{next(_numbers)}"
    g.decision = _strategy().acquire(principal.bucket, limits_of(principal.allowance), request)
    check_left()
    if principal.allowance.parallel_requests is not None:
        g.running = request


def over() -> Callable[[], None] | None:
    """What to do when this request is over, if it counts as running until then."""
    running = g.pop("running", None)
    if running is None:
        return None
    return partial(services().rate_limits.release, g.principal.bucket, running)


def check_left() -> None:
    """Raise RateLimitExceeded if the limits of this request have nothing left for it."""
    if not g.decision.allowed:
        raise exceeded(g.decision, f"tier {g.principal.tier}")


def peek() -> None:
    """Note what is left, for the headers, and take nothing."""
    principal: Principal = g.principal
    g.decision = services().rate_limits.peek(principal.bucket, limits_of(principal.allowance))


def count_failed_attempt(address: str | None) -> None:
    """Count a wrong credential against its address; too many become 429."""
    decision = _strategy().acquire(f"failed-{_network(address)}", FAILED_CREDENTIAL_LIMIT)
    if not decision.allowed:
        raise exceeded(decision, "failed credentials of this address")


def count_sign_in(username: str, address: str | None) -> None:
    """Count an attempt to log in, before its password is looked at; too many become 429."""
    name = hashlib.sha256(username.lower().encode("utf-8", "surrogatepass")).hexdigest()
    for bucket, items in (
        (f"login-{name}", SIGN_INS_PER_ACCOUNT),
        (f"login-{_network(address)}", SIGN_INS_PER_ADDRESS),
    ):
        decision = _strategy().acquire(bucket, items)
        if not decision.allowed:
            raise exceeded(decision, "attempts to log in")


def _strategy() -> SlidingWindowStrategy:
    return cast(SlidingWindowStrategy, limiter.limiter)


def exceeded(decision: Decision, whose: str) -> RateLimitExceeded:
    state = decision.exhausted
    seconds = decision.retry_after
    return RateLimitExceeded(
        f"The limit of {state.limit.name} ({whose}) is used up: {state.used} of "
        f"{state.limit.amount}. Try again in {seconds} s.",
        details=details_of(state),
        retry_after=seconds,
    )


def details_of(state: LimitState) -> dict[str, Any]:
    """A limit as it stands, for clients."""
    return {
        "limit": state.limit.name,
        "size": state.limit.amount,
        "used": state.used,
        "reset": math.ceil(state.reset),
    }


def headers() -> list[tuple[str, str]]:
    """What every authenticated response of a limited endpoint says is left."""
    decision: Decision | None = g.get("verdict")
    if decision is None:
        return []
    state = decision.tightest
    return [
        ("X-RateLimit-Limit", str(state.limit.amount)),
        ("X-RateLimit-Remaining", str(state.remaining)),
        ("X-RateLimit-Reset", str(math.ceil(state.reset))),
    ]


def openai_headers() -> list[tuple[str, str]]:
    """The same as OpenAI says it, with the tokens where they are limited; resets are durations."""
    decision: Decision | None = g.get("verdict")
    if decision is None:
        return []
    told = [("requests", decision.tightest)]
    if decision.tokens:
        told.append(("tokens", decision.tokens))
    return [
        (f"x-ratelimit-{figure}-{what}", value)
        for what, state in told
        for figure, value in (
            ("limit", str(state.limit.amount)),
            ("remaining", str(state.remaining)),
            ("reset", _duration(max(0.0, state.reset - decision.now))),
        )
    ]


def _duration(seconds: float) -> str:
    """As Go prints one, and OpenAI with it: `12ms`, `8.64s`, `6m0s`, `23h59m0s`."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, rest = divmod(round(seconds, 3), 60)
    hours, minutes = divmod(int(minutes), 60)
    if hours:
        return f"{hours}h{minutes}m{rest:g}s"
    return f"{minutes}m{rest:g}s" if minutes else f"{rest:g}s"


def _network(address: str | None) -> str:
    """An IPv4 address, or the /64 of an IPv6 one: that much anyone gets."""
    try:
        parsed = ip_address(address or "")
    except ValueError:
        return "unknown"
    return str(parsed) if not isinstance(parsed, IPv6Address) else parsed.exploded[:19]
