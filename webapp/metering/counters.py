"""Sums of the stored counters by time, key and target, from the tables that have them.

Requests of days are in `traffic`, their calls in `usage`; `activity` has both by minute and half
hour. Requests by endpoint and target, and calls in detail by minute and half hour, are in
`target_activity`.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, date, datetime
from typing import Any

from sqlalchemy import Connection, Table, func, select

from webapp.metering.activity import COUNTED, DAY, activity
from webapp.metering.ranges import Window
from webapp.metering.selected import Selected
from webapp.metering.target_activity import target_activity
from webapp.metering.totals import UsageTotals
from webapp.metering.traffic import traffic
from webapp.metering.usage import usage

BILLED = ("tokens", "cost_nano")
CALLS = ("calls", "failed_calls", "input_tokens", "cached_input_tokens", "output_tokens")
FIELDS = (*COUNTED, *BILLED, *CALLS)
WITHOUT_CALLS = (*COUNTED, *BILLED)

Sums = dict[tuple[Any, ...], UsageTotals]


def sums(
    connection: Connection,
    window: Window,
    selected: Selected,
    *by: str,
    fields: Collection[str] = FIELDS,
) -> Sums:
    """Totals of a window by some of `time` (Unix seconds in a step), `key_id`, `provider` and
    `model`; without any, there is one total under ()."""
    by_target = selected.by_target or "provider" in by
    found: Sums = {}
    for table, names in _sources(window.span, by_target=by_target):
        columns = [_column(table, name).label(name) for name in names if name in fields]
        if not columns:
            continue
        groups = [group(table, window, name) for name in by]
        query = (
            select(*groups, *map(func.sum, columns))
            .where(*within(table, window), *selected.conditions(table))
            .group_by(*(one.name for one in groups))
        )
        for row in connection.execute(query):
            key = tuple(map(_plain, row[: len(by)]))
            counted = {
                column.name: int(value or 0)
                for column, value in zip(columns, row[len(by) :], strict=True)
            }
            found.setdefault(key, UsageTotals()).add(UsageTotals(**counted))
    return found


def _sources(span: int, *, by_target: bool) -> list[tuple[Table, tuple[str, ...]]]:
    """The tables to sum, and which fields of UsageTotals each has."""
    if span == DAY:
        return [(target_activity if by_target else traffic, COUNTED), (usage, (*BILLED, *CALLS))]
    if by_target:
        return [(target_activity, FIELDS)]
    return [(activity, WITHOUT_CALLS), (target_activity, CALLS)]


def _column(table: Table, name: str) -> Any:
    if name == "tokens" and table is not activity:
        return table.c.input_tokens + table.c.output_tokens
    if name == "failed_calls" and table is usage:
        return table.c.failed
    return table.c[name]


def group(table: Table, window: Window, name: str) -> Any:
    """A column to group by, by its name: `time` is the begin of a step, or the day."""
    if name != "time":
        return table.c[name]
    if "day" in table.c:
        return table.c.day
    if window.step == window.span:
        return table.c.start
    into_step = (table.c.start - window.first) % window.step
    return (table.c.start - into_step).label("step")


def within(table: Table, window: Window) -> list[Any]:
    """The conditions of the rows of a window, in a table by `day`, or by `span` and `start`."""
    if "day" in table.c:
        return [table.c.day.between(_day(window.first), _day(window.until - 1))]
    return [
        table.c.span == window.span,
        table.c.start >= window.first,
        table.c.start < window.until,
    ]


def _plain(value: Any) -> Any:
    """A day as Unix seconds, anything else as it is."""
    if isinstance(value, date):
        return int(datetime.combine(value, datetime.min.time(), UTC).timestamp())
    return value


def _day(moment: int) -> date:
    return datetime.fromtimestamp(moment, UTC).date()
