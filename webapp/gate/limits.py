"""Tier limits on Flask-Limiter, and the limit on failed credentials."""

from __future__ import annotations

import math
from ipaddress import IPv6Address, ip_address

from flask import Flask, Response, g
from flask_limiter import RateLimitExceeded as LimiterExceeded
from limits import RateLimitItem, RateLimitItemPerMinute
from limits.strategies import STRATEGIES, RateLimiter
from limits.util import WindowStats

from webapp.errors import RateLimitExceeded
from webapp.extensions import limiter
from webapp.gate.windows import Verdict
from webapp.services import services

STRATEGY = "weir-sliding-window"
FAILED_ATTEMPTS = (RateLimitItemPerMinute(30),)


class SlidingWindowStrategy(RateLimiter):
    """The strategy Flask-Limiter consults, limit by limit; the first takes from all as one."""

    def hit(self, item: RateLimitItem, *identifiers: str, cost: int = 1) -> bool:
        if "verdict" not in g:
            g.verdict = services().windows.take(g.principal.bucket, g.principal.limits)
        verdict: Verdict = g.verdict
        return verdict.allowed or any(w.item == item and w.remaining for w in verdict.windows)

    def test(self, item: RateLimitItem, *identifiers: str, cost: int = 1) -> bool:
        verdict: Verdict | None = g.get("verdict")
        return verdict is None or any(w.item == item and w.remaining for w in verdict.windows)

    def get_window_stats(self, item: RateLimitItem, *identifiers: str) -> WindowStats:
        window = next(window for window in g.verdict.windows if window.item == item)
        return WindowStats(window.reset, window.remaining)


STRATEGIES[STRATEGY] = SlidingWindowStrategy  # type: ignore[assignment]


def configure(app: Flask) -> None:
    """Bind Flask-Limiter. Its own storage stays unused: the strategy keeps the windows."""
    app.config.update(RATELIMIT_STRATEGY=STRATEGY, RATELIMIT_STORAGE_URI="memory://")
    limiter.init_app(app)


@limiter.request_filter
def _not_identified_yet() -> bool:
    """Whether Flask-Limiter asks too early: its own hook runs before the guard's."""
    return "principal" not in g


def _tier_limits() -> str:
    notation: str = g.principal.notation
    return notation


@limiter.shared_limit(_tier_limits, scope="tier", key_func=lambda: g.principal.bucket)
def _consume() -> None:
    """Where Flask-Limiter counts: a plain function, called once the principal is known."""


def consume() -> None:
    """Count this request. Raises RateLimitExceeded, which says which limit and until when."""
    try:
        _consume()
    except LimiterExceeded:
        raise exceeded(g.verdict, f"tier {g.principal.tier}") from None


def count_failed_attempt(address: str | None) -> None:
    """Count a wrong credential against its address; too many become 429."""
    verdict = services().windows.take(f"failed-{_network(address)}", FAILED_ATTEMPTS)
    if not verdict.allowed:
        raise exceeded(verdict, "failed credentials of this address")


def exceeded(verdict: Verdict, whose: str) -> RateLimitExceeded:
    window = verdict.tightest
    seconds = verdict.retry_after
    return RateLimitExceeded(
        f"The limit of {window.item} ({whose}) is used up. Try again in {seconds} s.",
        details={
            "limit": str(window.item),
            "size": window.item.amount,
            "used": window.used,
            "reset": math.ceil(window.reset),
        },
        retry_after=seconds,
    )


def set_headers(response: Response) -> Response:
    """Tell every authenticated response of a limited door what is left."""
    verdict: Verdict | None = g.get("verdict")
    if verdict is not None:
        window = verdict.tightest
        response.headers["X-RateLimit-Limit"] = str(window.item.amount)
        response.headers["X-RateLimit-Remaining"] = str(window.remaining)
        response.headers["X-RateLimit-Reset"] = str(math.ceil(window.reset))
    return response


def _network(address: str | None) -> str:
    """An IPv4 address, or the /64 of an IPv6 one: that much anyone gets."""
    try:
        parsed = ip_address(address or "")
    except ValueError:
        return "unknown"
    return str(parsed) if not isinstance(parsed, IPv6Address) else parsed.exploded[:19]
