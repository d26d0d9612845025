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

from webapp.metering.activity import DAY, activity
from webapp.metering.ranges import Window, unix_of
from webapp.metering.rollups import read_rollups
from webapp.metering.selected import Selected
from webapp.metering.target_activity import target_activity
from webapp.metering.totals import (
    BILLED,
    CALLS,
    COUNTED,
    FIELDS,
    WITHOUT_CALLS,
    UsageTotals,
)
from webapp.metering.traffic import traffic
from webapp.metering.usage import usage

Sums = dict[tuple[Any, ...], UsageTotals]


def sums(
    connection: Connection,
    window: Window,
    selected: Selected,
    *by: str,
    fields: Collection[str] = FIELDS,
    of_keys: bool = False,
) -> Sums:
    """Totals of a window by some of `time` (Unix seconds in a step), `key_id`, `provider` and
    `model`; without any, there is one total under (). `of_keys` reads the rows of each key even
    where they are rolled up."""
    by_target = selected.by_target or "provider" in by
    found: Sums = {}
    starts: Collection[int] = window.spans
    of_all_keys = selected.key_ids is None and "key_id" not in by
    if of_all_keys and selected.endpoint is None and not of_keys:
        rolled_up, rows = read_rollups(connection, window, selected, fields, by_target=by_target)
        for start, provider, model, totals in rows:
            names = {"time": start, "provider": provider, "model": model}
            add(found, tuple(names[name] for name in by), totals)
        starts = [start for start in starts if start not in rolled_up]
    for table, names_of_table in _sources(window.span, by_target=by_target):
        columns = [_column(table, name).label(name) for name in names_of_table if name in fields]
        if not columns or not starts:
            continue
        groups = [group(table, window, name) for name in by]
        query = (
            select(*groups, *map(func.sum, columns))
            .where(*within(table, window.span, starts), *selected.conditions(table))
            .group_by(*(one.name for one in groups))
        )
        for row in connection.execute(query):
            key = tuple(map(_plain, row[: len(by)]))
            counted = {
                column.name: int(value or 0)
                for column, value in zip(columns, row[len(by) :], strict=True)
            }
            add(found, key, UsageTotals(**counted))
    return found


def add(found: Sums, key: tuple[Any, ...], totals: UsageTotals) -> None:
    """Add to the totals of a key. The first ones are taken as they are, and change with it."""
    if key in found:
        found[key].add(totals)
    else:
        found[key] = totals


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


def within(table: Table, span: int, starts: Collection[int]) -> list[Any]:
    """The conditions of the rows of these spans, in a table by `day`, or by `span` and `start`.

    One by one, so that the primary key leads to the rows of one key."""
    if "day" in table.c:
        return [table.c.day.in_([_day(start) for start in starts])]
    return [table.c.span == span, table.c.start.in_(starts)]


def _plain(value: Any) -> Any:
    """A day as Unix seconds, anything else as it is."""
    if isinstance(value, date):
        return unix_of(value)
    return value


def _day(moment: int) -> date:
    return datetime.fromtimestamp(moment, UTC).date()
