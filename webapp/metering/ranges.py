"""The time ranges of the dashboard: named ones, which move with the clock, and custom ones.

An hour is made of minutes, a day of half hours, longer ranges of whole UTC days.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime

from webapp.errors import ValidationError
from webapp.metering.activity import DAY, HALF_HOUR, MINUTE, RETENTION

MAX_STEPS = 120
MAX_DAYS = 400


@dataclass(frozen=True, slots=True)
class Window:
    """The time from `first` to `until` (Unix seconds), in steps that are sums of a stored span."""

    first: int
    until: int
    step: int
    span: int

    @property
    def times(self) -> range:
        """Unix seconds at which the steps begin."""
        return range(self.first, self.until, self.step)

    @property
    def spans(self) -> range:
        """Unix seconds at which the stored spans begin."""
        return range(self.first, self.until, self.span)

    def index(self, moment: int) -> int:
        """The number of the step that a time is in."""
        return (moment - self.first) // self.step

    @property
    def before(self) -> Window:
        """The same length of time before it."""
        return replace(self, first=2 * self.first - self.until, until=self.first)

    @property
    def totals(self) -> Window:
        """The same time by whole UTC days if it consists of some: as the usage reports have it."""
        whole = self.first % DAY == self.until % DAY == 0
        return replace(self, step=DAY, span=DAY) if whole else self

    @property
    def is_stored(self) -> bool:
        """Whether no part of it has been deleted."""
        return self.span == DAY or self.first >= time.time() - RETENTION[self.span]


@dataclass(frozen=True, slots=True)
class Range:
    """A time range of `length` seconds in steps of `step` seconds; the last one may be shorter.

    A step is the sum of one or more of the stored `span` (seconds). `end` gives the Unix seconds
    at which the range ends, at a time.
    """

    name: str
    title: str
    span: int
    step: int
    length: int
    end: Callable[[int], int]

    @property
    def steps(self) -> int:
        return math.ceil(self.length / self.step)

    @property
    def until(self) -> int:
        """Unix seconds at which the last step ends."""
        return self.end(int(time.time()))

    @property
    def first(self) -> int:
        """Unix seconds at which the first step begins."""
        return self.until - self.length

    @property
    def window(self) -> Window:
        """The range as it is now."""
        until = self.until
        return Window(until - self.length, until, self.step, self.span)

    @property
    def by_day(self) -> bool:
        return self.span == DAY

    @property
    def is_running(self) -> bool:
        """Whether the last step is the current one."""
        return self.until > time.time()

    @property
    def elapsed(self) -> float:
        """The share (0..1) of the range that is over."""
        return min(1.0, (time.time() - self.first) / self.length)


def _running(name: str, title: str, step: int, steps: int) -> Range:
    """A range that ends with the current step."""
    return Range(name, title, step, step, step * steps, lambda now: now - now % step + step)


RANGES = {
    range_.name: range_
    for range_ in (
        _running("1h", "1 hour", MINUTE, 60),
        _running("24h", "24 hours", HALF_HOUR, 48),
        Range(
            "yesterday", "Yesterday (UTC)", HALF_HOUR, HALF_HOUR, DAY, lambda now: now - now % DAY
        ),
        _running("7d", "7 days", DAY, 7),
        _running("30d", "30 days", DAY, 30),
    )
}


def custom(since: float, until: float) -> Range:
    """The range between two times (Unix seconds), in the finest steps that are stored for it.

    It is rounded outwards to what is stored, and ends at the latest now. Raises ValidationError.
    """
    now = time.time()
    if not 0 <= since < now:
        raise _invalid("since", "Must be a time in the past.")
    if not since < until < math.inf:
        raise _invalid("until", "Must be later than the beginning.")
    if min(until, now) - since > MAX_DAYS * DAY:
        raise _invalid("since", f"Must be at most {MAX_DAYS} days before the end.")
    spans = (span for span, seconds in RETENTION.items() if since >= now - seconds)
    span = min(spans, default=DAY)
    first = int(since) // span * span
    count = math.ceil((min(until, now) - first) / span)
    end = first + count * span
    step = math.ceil(count / MAX_STEPS) * span
    return Range("custom", _title(first, end, span), span, step, end - first, lambda _now: end)


def unix_of(day: date) -> int:
    """The Unix seconds at which a UTC day begins."""
    return int(datetime.combine(day, datetime.min.time(), UTC).timestamp())


def _title(first: int, end: int, span: int) -> str:
    begins, ends = (datetime.fromtimestamp(moment, UTC) for moment in (first, end))
    if span == DAY:
        last = datetime.fromtimestamp(end - 1, UTC)
        return f"{begins:%Y-%m-%d} to {last:%Y-%m-%d}, whole days (UTC)"
    return f"{begins:%Y-%m-%d %H:%M} to {ends:%Y-%m-%d %H:%M} UTC"


def _invalid(field: str, reason: str) -> ValidationError:
    return ValidationError(f"The request is not valid: {field}.", details={field: [reason]})
