"""Jinja filters that format numbers, money, times and states on the pages."""

from __future__ import annotations

import math
import time
from datetime import UTC, datetime

from flask import Flask
from markupsafe import Markup

from webapp import money

NOTHING = "–"
SMALLEST = 0.0001  # USD; what is less is shown as less than this
DOLLAR = 0.99995  # what four decimals round to a dollar
UNITS = ((86_400, "day"), (3_600, "hour"), (60, "minute"))


def register(app: Flask) -> None:
    """Register the filters with Jinja."""
    filters = (
        number, compact, usd, nano, percent, duration, time_span, file_size, moment, ago, change,
        key_state, batch_state,
    )  # fmt: skip
    app.jinja_env.filters.update({function.__name__: function for function in filters})
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True


def number(value: int | None) -> str:
    """`12,345`."""
    return NOTHING if value is None else f"{value:,}"


def compact(value: int | None) -> str:
    """Four digits at most: `9,876`, `12.3 k`, `4.56 M`, `7.89 B`."""
    if value is None or abs(value) < 10_000:
        return number(value)
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size * 0.99995:
            return f"{value / size:.3g} {unit}"
    return number(value)


def usd(value: float | None) -> Markup | str:
    """An amount in one format: `$1,234.50`, `$0.50`, `$0.0042`, `<$0.0001`.

    A rounded amount below a dollar has the exact one as its title, and the smallest ones have it
    for screen readers too. weir.usd() of page.js is the same rule. In an attribute: `| striptags`.
    """
    if value is None:
        return NOTHING
    sign, amount = "−" if value < 0 else "", abs(value)
    if amount == 0 or amount >= DOLLAR:
        return f"{sign}${amount:,.2f}"
    exact = f"{sign}${_decimals(amount, 9)}"
    if amount < SMALLEST:
        return Markup(
            '<span title="{0}">{1}{2}$0.0001<span class="unseen"> (exactly {0})</span></span>'
        ).format(exact, ">" if sign else "<", sign)
    rounded = f"{sign}${_decimals(amount, 4)}"
    return rounded if rounded == exact else _titled(exact, rounded)


def nano(value: int | None) -> Markup | str:
    """Like usd(), from nano-USD."""
    return usd(money.to_usd(value))


def percent(share: float | None) -> str:
    """`12.3 %` of a share from 0 to 1."""
    return NOTHING if share is None else f"{share * 100:.1f} %"


def duration(milliseconds: float | None) -> str:
    """`0.8 ms`, `120 ms`, `2.68 s`, `12.3 s`, `145 s`."""
    if milliseconds is None:
        return NOTHING
    if milliseconds < 999.5:
        return f"{milliseconds:.0f} ms" if milliseconds >= 10 else f"{milliseconds:.1f} ms"
    seconds = milliseconds / 1000
    digits = 2 if seconds < 9.995 else 1 if seconds < 99.95 else 0
    return f"{seconds:,.{digits}f} s"


def time_span(seconds: float | None) -> str:
    """`45 s`, `12 min`, `3 h 20 min`, `2 d 4 h`."""
    if seconds is None:
        return NOTHING
    if seconds < 60:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h" if hours else f"{days} d"


def file_size(size: int) -> str:
    """`312 B`, `4.2 kB`, `118 MB`."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= unit * 0.9995:
            return f"{size / unit:.3g} {name}"
    return f"{size} B"


def moment(value: float | datetime | str | None) -> Markup | str:
    """A time (Unix seconds, datetime or ISO 8601) in UTC, as a <time>; page.js may show it in the
    browser's time zone. The footer says which of the two."""
    at = _datetime(value)
    if at is None:
        return NOTHING
    return _time(at, f"{at:%Y-%m-%d %H:%M:%S}")


def ago(value: float | datetime | str | None) -> Markup | str:
    """How long ago a time was, or how long it is until then, as a <time>."""
    at = _datetime(value)
    if at is None:
        return NOTHING
    seconds = time.time() - at.timestamp()
    for size, unit in UNITS:
        if abs(seconds) >= size:
            count = int(abs(seconds) // size)
            amount = f"{count} {unit}{'s' if count > 1 else ''}"
            return _time(at, f"{amount} ago" if seconds > 0 else f"in {amount}")
    return _time(at, "just now" if seconds >= 0 else f"in {math.ceil(-seconds)} s")


def change(now: float | None, before: float | None) -> str:
    """The change of a figure against the previous period: `+12 %`."""
    if now is None or not before:
        return ""
    share = (now - before) / before * 100
    return "unchanged" if abs(share) < 0.5 else f"{share:+,.0f} %".replace("-", "−")


def key_state(state: str) -> str:
    """The state of a key, as the pages show it."""
    return "Active" if state == "works" else state.capitalize()


def batch_state(state: str) -> str:
    """The state of a batch, as the pages show it."""
    return state.replace("_", " ").capitalize()


def sentence(text: str) -> str:
    """The text with a capital and a full stop."""
    return text[:1].upper() + text[1:].rstrip(".") + "."


def _decimals(amount: float, most: int) -> str:
    """At least two decimals, and no zeros after those."""
    whole, _, decimals = f"{amount:.{most}f}".partition(".")
    return f"{whole}.{decimals.rstrip('0').ljust(2, '0')}"


def _titled(title: str, text: str) -> Markup:
    return Markup('<span title="{}">{}</span>').format(title, text)


def _datetime(value: float | datetime | str | None) -> datetime | None:
    if value is None or isinstance(value, datetime):
        return value
    if isinstance(value, str):
        return datetime.fromisoformat(value).astimezone(UTC)
    return datetime.fromtimestamp(value, UTC)


def _time(at: datetime, text: str) -> Markup:
    iso = at.isoformat(timespec="seconds")
    return Markup('<time datetime="{}" title="{}">{}</time>').format(
        iso, f"{at:%Y-%m-%d %H:%M:%S} UTC", text
    )
