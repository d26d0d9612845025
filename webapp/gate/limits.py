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

from webapp.errors import RateLimitExceeded
from webapp.extensions import limiter
from webapp.gate.identity import Principal
from webapp.gate.windows import Limit, Verdict, Window, limits_of, windows_of
from webapp.services import services

STRATEGY = "weir-sliding-window"
FAILED_ATTEMPTS = windows_of((RateLimitItemPerMinute(30),))
LOG_INS_OF_ACCOUNT = windows_of((RateLimitItemPerMinute(10),))
LOG_INS_OF_ADDRESS = windows_of((RateLimitItemPerMinute(30),))

# Tells apart the requests of all processes.
_process = uuid.uuid4().hex
_numbers = count()


class SlidingWindowStrategy(RateLimiter):
    """The strategy that Flask-Limiter is configured with: windows that pass or fail as one."""

    def take(self, bucket: str, limits: Sequence[Limit], request: str = "-") -> Verdict:
        """Take a request from every limit of a bucket, or from none."""
        return services().windows.take(bucket, limits, request)

    def hit(self, item: RateLimitItem, *identifiers: str, cost: int = 1) -> bool:
        return all(
            self.take(":".join(identifiers), windows_of((item,))).allowed for _ in range(cost)
        )

    def test(self, item: RateLimitItem, *identifiers: str, cost: int = 1) -> bool:
        verdict = services().windows.look(":".join(identifiers), windows_of((item,)))
        return verdict.windows[0].remaining >= cost

    def get_window_stats(self, item: RateLimitItem, *identifiers: str) -> WindowStats:
        window = services().windows.look(":".join(identifiers), windows_of((item,))).windows[0]
        return WindowStats(window.reset, window.remaining)


STRATEGIES[STRATEGY] = SlidingWindowStrategy  # type: ignore[assignment]


def configure(app: Flask) -> None:
    """Bind Flask-Limiter. Its own storage stays unused: the strategy keeps the windows.

    Known to the application beforehand, it leaves out its hooks around every request.
    """
    app.config.update(RATELIMIT_STRATEGY=STRATEGY, RATELIMIT_STORAGE_URI="memory://")
    app.extensions["limiter"] = {limiter}
    limiter.init_app(app)


def consume() -> None:
    """Count this request. Raises RateLimitExceeded, which says which limit and until when.

    Asks Flask-Limiter's strategy itself: its decorators know no tier before the request is
    identified, take limit by limit, and would cost a tenth of a cached answer.
    """
    principal: Principal = g.principal
    request = f"{_process}.{next(_numbers)}"
    g.verdict = _strategy().take(principal.bucket, limits_of(principal.allowance), request)
    check_left()
    if principal.allowance.parallel_requests is not None:
        g.running = request


def over() -> Callable[[], None] | None:
    """What to do when this request is over, if it counts as running until then."""
    running = g.pop("running", None)
    if running is None:
        return None
    return partial(services().windows.release, g.principal.bucket, running)


def check_left() -> None:
    """Raise RateLimitExceeded if the limits of this request have nothing left for it."""
    if not g.verdict.allowed:
        raise exceeded(g.verdict, f"tier {g.principal.tier}")


def look() -> None:
    """Note what is left, for the headers, and take nothing."""
    principal: Principal = g.principal
    g.verdict = services().windows.look(principal.bucket, limits_of(principal.allowance))


def count_failed_attempt(address: str | None) -> None:
    """Count a wrong credential against its address; too many become 429."""
    verdict = _strategy().take(f"failed-{_network(address)}", FAILED_ATTEMPTS)
    if not verdict.allowed:
        raise exceeded(verdict, "failed credentials of this address")


def count_log_in(username: str, address: str | None) -> None:
    """Count an attempt to log in, before its password is looked at; too many become 429."""
    name = hashlib.sha256(username.lower().encode("utf-8", "surrogatepass")).hexdigest()
    for bucket, items in (
        (f"login-{name}", LOG_INS_OF_ACCOUNT),
        (f"login-{_network(address)}", LOG_INS_OF_ADDRESS),
    ):
        verdict = _strategy().take(bucket, items)
        if not verdict.allowed:
            raise exceeded(verdict, "attempts to log in")


def _strategy() -> SlidingWindowStrategy:
    return cast(SlidingWindowStrategy, limiter.limiter)


def exceeded(verdict: Verdict, whose: str) -> RateLimitExceeded:
    window = verdict.refusing
    seconds = verdict.retry_after
    return RateLimitExceeded(
        f"The limit of {window.limit.name} ({whose}) is used up: {window.used} of "
        f"{window.limit.amount}. Try again in {seconds} s.",
        details=details_of(window),
        retry_after=seconds,
    )


def details_of(window: Window) -> dict[str, Any]:
    """A limit as it stands, for clients."""
    return {
        "limit": window.limit.name,
        "size": window.limit.amount,
        "used": window.used,
        "reset": math.ceil(window.reset),
    }


def headers() -> list[tuple[str, str]]:
    """What every authenticated response of a limited door says is left."""
    verdict: Verdict | None = g.get("verdict")
    if verdict is None:
        return []
    window = verdict.tightest
    return [
        ("X-RateLimit-Limit", str(window.limit.amount)),
        ("X-RateLimit-Remaining", str(window.remaining)),
        ("X-RateLimit-Reset", str(math.ceil(window.reset))),
    ]


def openai_headers() -> list[tuple[str, str]]:
    """The same as OpenAI says it, with the tokens where they are limited; resets are durations."""
    verdict: Verdict | None = g.get("verdict")
    if verdict is None:
        return []
    told = [("requests", verdict.tightest)]
    if verdict.tokens:
        told.append(("tokens", verdict.tokens))
    return [
        (f"x-ratelimit-{figure}-{what}", value)
        for what, window in told
        for figure, value in (
            ("limit", str(window.limit.amount)),
            ("remaining", str(window.remaining)),
            ("reset", _duration(max(0.0, window.reset - verdict.now))),
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
