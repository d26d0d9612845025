"""Flask-Limiter's strategy, the limits of tiers on it, and what responses tell of them."""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from itertools import count
from typing import Any, cast

from flask import Flask, g
from limits import RateLimitItem, RateLimitItemPerMinute
from limits.strategies import STRATEGIES, RateLimiter
from limits.util import WindowStats

from webapp.admission.identity import Principal
from webapp.admission.limit_states import Decision, Limit, LimitState, limits_of, window_limits
from webapp.admission.parts import parts
from webapp.errors import RateLimitExceeded
from webapp.extensions import limiter
from webapp.library_internals import bind_without_hooks

STRATEGY = "weir-sliding-window"
COSTLY_DRY_RUNS = window_limits((RateLimitItemPerMinute(60),))

# Tells apart the requests of all processes.
_process = uuid.uuid4().hex
_numbers = count()


class SlidingWindowStrategy(RateLimiter):
    """The strategy that Flask-Limiter is configured with: windows that pass or fail as one.

    It asks Redis through Weir's one connection. While Redis is away it counts in the process, so
    it never raises.
    """

    def acquire(self, bucket: str, limits: Sequence[Limit], request: str = "-") -> Decision:
        """Take a request from every limit of a bucket, or from none."""
        return parts().rate_limits.acquire(bucket, limits, request)

    def hit(self, item: RateLimitItem, *identifiers: str, cost: int = 1) -> bool:
        """Take `cost` requests; the last decision is left in g.attempt, for whoever refuses."""
        for _ in range(cost):
            g.attempt = self.acquire(_bucket(identifiers), window_limits((item,)))
            if not g.attempt.allowed:
                return False
        return True

    def test(self, item: RateLimitItem, *identifiers: str, cost: int = 1) -> bool:
        return self.get_window_stats(item, *identifiers).remaining >= cost

    def get_window_stats(self, item: RateLimitItem, *identifiers: str) -> WindowStats:
        decision = parts().rate_limits.peek(_bucket(identifiers), window_limits((item,)))
        [state] = decision.states
        return WindowStats(state.reset, state.remaining)


def _bucket(identifiers: Sequence[str]) -> str:
    """The bucket of what Flask-Limiter counts: it tells who is counted, then the scope."""
    return "-".join(reversed(identifiers))


STRATEGIES[STRATEGY] = SlidingWindowStrategy  # type: ignore[assignment]


def configure(app: Flask) -> None:
    """Bind Flask-Limiter. Its own storage stays unused: the strategy keeps the windows.

    Known to the application beforehand, it leaves out its hooks around every request: they are for
    limits on views, deduct_when and headers, and Weir limits functions that views call.
    """
    app.config.update(RATELIMIT_STRATEGY=STRATEGY, RATELIMIT_STORAGE_URI="memory://")
    bind_without_hooks(limiter, app)


def consume() -> None:
    """Count this request. Raises RateLimitExceeded, which says which limit and until when.

    Asks Flask-Limiter's strategy without a decorator, which would take limit by limit and cost a
    cached answer a seventh more; docs/architecture.md has the figures.
    """
    principal: Principal = g.principal
    g.limited = True
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
    return partial(parts().rate_limits.release, g.principal.bucket, running)


def check_left() -> None:
    """Raise RateLimitExceeded if the limits of this request have nothing left for it."""
    if not g.decision.allowed:
        raise exceeded(g.decision, f"tier {g.principal.tier}")


def check_dry_run() -> None:
    """Raise RateLimitExceeded if too many costly dry runs were made, or nothing is left."""
    check_left()
    decision = parts().rate_limits.peek(_dry_runs(), COSTLY_DRY_RUNS)
    if not decision.allowed:
        raise exceeded(decision, "dry runs that are large or refused")


def count_costly_dry_run() -> None:
    """Count a dry run that is large or was refused: it has cost work, and counts nowhere else."""
    parts().rate_limits.acquire(_dry_runs(), COSTLY_DRY_RUNS)


def _dry_runs() -> str:
    return f"{g.principal.bucket}-costly-dry-runs"


def peek() -> None:
    """Note what is left, for the headers, and take nothing."""
    principal: Principal = g.principal
    g.decision = parts().rate_limits.peek(principal.bucket, limits_of(principal.allowance))


def _strategy() -> SlidingWindowStrategy:
    return cast(SlidingWindowStrategy, limiter.limiter)


def exceeded(decision: Decision, whose: str) -> RateLimitExceeded:
    state = decision.exhausted
    seconds = decision.retry_after
    return RateLimitExceeded(
        f"Rate limit exceeded: {state.limit.name} ({whose}), {state.used} of "
        f"{state.limit.amount} used. Try again in {seconds} s.",
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
    decision: Decision | None = g.get("decision")
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
    decision: Decision | None = g.get("decision")
    if decision is None:
        return []
    return [
        (f"x-ratelimit-{figure}-{what}", value)
        for what, state in _requests_and_tokens(decision)
        for figure, value in (
            ("limit", str(state.limit.amount)),
            ("remaining", str(state.remaining)),
            ("reset", _duration(max(0.0, state.reset - decision.now))),
        )
    ]


def anthropic_headers() -> list[tuple[str, str]]:
    """The same as Anthropic says it; resets are times (RFC 3339)."""
    decision: Decision | None = g.get("decision")
    if decision is None:
        return []
    return [
        (f"anthropic-ratelimit-{what}-{figure}", value)
        for what, state in _requests_and_tokens(decision)
        for figure, value in (
            ("limit", str(state.limit.amount)),
            ("remaining", str(state.remaining)),
            ("reset", _time(math.ceil(state.reset))),
        )
    ]


def _requests_and_tokens(decision: Decision) -> list[tuple[str, LimitState]]:
    told = [("requests", decision.tightest)]
    if decision.tokens:
        told.append(("tokens", decision.tokens))
    return told


def _time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _duration(seconds: float) -> str:
    """As Go prints one, and OpenAI with it: `12ms`, `8.64s`, `6m0s`, `23h59m0s`."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, rest = divmod(round(seconds, 3), 60)
    hours, minutes = divmod(int(minutes), 60)
    if hours:
        return f"{hours}h{minutes}m{rest:g}s"
    return f"{minutes}m{rest:g}s" if minutes else f"{rest:g}s"
