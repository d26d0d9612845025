"""The check of the clock, against those of others."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from email.utils import parsedate_to_datetime
from typing import Any

from sqlalchemy import text

from webapp.diagnosis.finding import Finding, Status
from webapp.diagnosis.http_request import get
from webapp.errors import StoreUnavailable
from webapp.services import Services
from webapp.storage.redis_commands import RedisUnavailable

SKEW_WARNING, SKEW_PROBLEM = 2.0, 30.0


def check_clock(services: Services, url: str) -> Iterator[Finding]:
    clocks: dict[str, Callable[[], float]] = {}
    database, redis = services.database, services.redis
    if not database.is_sqlite:
        now = text("SELECT extract(epoch FROM clock_timestamp())")
        clocks["the database"] = lambda: float(database.read(lambda c: c.execute(now).scalar_one()))
    if redis is not None:
        clocks["Redis"] = lambda: int(redis.execute("TIME")[0])
    if url:
        clocks["the public address"] = lambda: _date_of(get(url + "/liveness"))
    for owner, read in clocks.items():
        try:
            skew = abs(read() - time.time())
        except (StoreUnavailable, RedisUnavailable, OSError, ValueError, TypeError):
            continue  # reported by its own check
        # Redis and HTTP have a resolution of whole seconds.
        if skew > SKEW_WARNING:
            status: Status = "problem" if skew > SKEW_PROBLEM else "warning"
            found = f"differs from {owner} by {skew:.0f} s"
            yield Finding("clock", status, found, "Synchronize both clocks with NTP.")
        else:
            yield Finding("clock", "ok", f"agrees with {owner}")


def _date_of(response: Any) -> float:
    """The Date header of a response, in Unix seconds."""
    return parsedate_to_datetime(response.get("date")).timestamp()
