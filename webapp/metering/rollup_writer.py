"""Rolls up the steps that are over, a few at a time."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from functools import partial

from sqlalchemy import Connection, func, select

from webapp.metering.activity import DAY, RETENTION, activity
from webapp.metering.counters import sums
from webapp.metering.ranges import Window, unix_of
from webapp.metering.rollups import DELAY, forget_late, is_free, read_rollups, rollups
from webapp.metering.selected import Selected
from webapp.metering.target_activity import target_activity
from webapp.metering.target_latency import ALL_TARGETS, KEPT_DAYS
from webapp.metering.totals import FIELDS, UsageTotals
from webapp.metering.traffic import traffic
from webapp.metering.usage import usage
from webapp.storage.database import Database
from webapp.storage.statements import execute_rows

INTERVAL = 60.0  # seconds
# A tick takes little longer than this; the rest follows with the next one.
MAX_TICK = 0.2  # seconds
# So many steps are rolled up in one transaction, if none of them is there.
AT_ONCE = 16
# While versions from before rollups run too, they settle calls of days that are rolled up.
CHECK_INTERVAL = 3_600.0  # seconds
DAYS_CHECKED = 31
EVERYTHING = Selected()


class RollupWriter:
    """Runs every INTERVAL, and again at the next tick while steps are left."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._next_at = self._next_check_at = 0.0

    def tick(self) -> bool:
        """Roll up some steps, if due, the newest first. False if some are left. Raises
        StoreUnavailable."""
        began = time.monotonic()
        if began < self._next_at:
            return True
        if began >= self._next_check_at:
            self._database.write(_check)
            self._next_check_at = began + CHECK_INTERVAL
        for window in self._database.read(lambda connection: list(_missing(connection))):
            if time.monotonic() > began + MAX_TICK:
                return False
            self._database.write(partial(roll_up, window))
        self._next_at = began + INTERVAL
        return True


def roll_up(window: Window, connection: Connection) -> None:
    """Write the rollups of a window's spans, unless some are there or others count in what is
    over."""
    if not is_free(connection) or _rolled_up(connection, window):
        return
    by_target = sums(connection, window, EVERYTHING, "time", "provider", "model")
    of_all = sums(connection, window, EVERYTHING, "time")
    for start in window.spans:
        by_target[start, ALL_TARGETS, ALL_TARGETS] = of_all.get((start,), UsageTotals())
    rows = [
        {"span": window.span, "start": start, "provider": provider, "model": model}
        | {name: getattr(totals, name) for name in FIELDS}
        for (start, provider, model), totals in by_target.items()
    ]
    execute_rows(connection, _INSERT, rows)


def _rolled_up(connection: Connection, window: Window) -> set[int]:
    return read_rollups(connection, window, EVERYTHING, (), by_target=False)[0]


def _check(connection: Connection) -> None:
    """Forget the rollups of days that are not the sum of their keys."""
    today = int(time.time()) // DAY * DAY
    window = Window(today - DAYS_CHECKED * DAY, today, DAY, DAY)
    _, rows = read_rollups(connection, window, EVERYTHING, FIELDS, by_target=False)
    of_keys = sums(connection, window, EVERYTHING, "time", of_keys=True)
    forget_late(
        connection,
        {
            (DAY, start)
            for start, _, _, totals in rows
            if totals != of_keys.get((start,), UsageTotals())
        },
    )


def _missing(connection: Connection) -> Iterator[Window]:
    """The steps that can be rolled up and are not."""
    now = int(time.time())
    for span, kept in {**RETENTION, DAY: KEPT_DAYS * DAY}.items():
        counted_since = _counted_since(connection, span)
        if counted_since is None:
            continue
        first = max(counted_since, math.ceil((now - kept) / span) * span)
        window = Window(first, (now - int(DELAY)) // span * span, span, span)
        rolled_up = _rolled_up(connection, window)
        for until in range(window.until, window.first, -AT_ONCE * span):
            part = Window(max(window.first, until - AT_ONCE * span), until, span, span)
            if rolled_up.isdisjoint(part.spans):
                yield part
            else:
                missing = (start for start in part.spans if start not in rolled_up)
                yield from (Window(start, start + span, span, span) for start in missing)


def _counted_since(connection: Connection, span: int) -> int | None:
    """When the oldest step of this span begins that has counters, in Unix seconds."""
    if span == DAY:
        oldest = [select(func.min(table.c.day)) for table in (traffic, usage)]
    else:
        oldest = [
            select(func.min(table.c.start)).where(table.c.span == span)
            for table in (activity, target_activity)
        ]
    found = [connection.execute(query).scalar_one() for query in oldest]
    begins = [unix_of(one) if span == DAY else one for one in found if one is not None]
    return min(begins, default=None)


_INSERT = rollups.insert()
