"""The figures of the dashboard: totals of a time range, compared with the range before.

The range of an hour is made of minutes, that of a day of half hours, including the current one.
Longer ranges are made of whole UTC days, including today, so that they equal the usage reports.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

from sqlalchemy import Connection, Table, func, literal, select

from webapp.accounts.keys import api_keys
from webapp.metering.activity import (
    COUNTED,
    COUNTERS,
    HALF_HOUR,
    MINUTE,
    activity,
    activity_latency,
)
from webapp.metering.totals import UsageTotals
from webapp.metering.traffic import latency, percentiles, traffic
from webapp.metering.usage import usage
from webapp.storage.database import Database

DAY = 86_400  # seconds
TOP_KEYS = 5


@dataclass(frozen=True, slots=True)
class Range:
    """A time range of `steps` steps that take `step` seconds each."""

    name: str
    title: str
    step: int
    steps: int

    @property
    def by_day(self) -> bool:
        return self.step == DAY

    @property
    def length(self) -> int:
        """In seconds."""
        return self.step * self.steps

    @property
    def elapsed(self) -> float:
        """The share (0..1) of the range that is over: its last step is the current one."""
        into_step = time.time() % self.step
        return 1 - (self.step - into_step) / self.length

    @property
    def first(self) -> int:
        """Unix seconds at which the first step begins."""
        return (int(time.time()) // self.step - self.steps + 1) * self.step


RANGES = {
    range_.name: range_
    for range_ in (
        Range("1h", "1 hour", MINUTE, 60),
        Range("24h", "24 hours", HALF_HOUR, 48),
        Range("7d", "7 days", DAY, 7),
        Range("30d", "30 days", DAY, 30),
    )
}


Latencies = dict[str, float | None]


@dataclass(frozen=True, slots=True)
class Figures:
    """The figures of a range.

    `before` are the totals of the range before, scaled to the share of this range that is over.
    `steps` are (Unix seconds, totals). Latencies are in ms, by p50, p95 and p99; they are None when
    figures are restricted to some keys, as latencies are not stored by key. `top_keys` are the keys
    with most requests: (id, name, mask, totals).
    """

    now: UsageTotals
    before: UsageTotals
    steps: list[tuple[int, UsageTotals]]
    latency: Latencies | None
    latency_before: Latencies | None
    top_keys: list[tuple[int, str, str, UsageTotals]]


class Overview:
    """Reads the figures from the counters. Methods may raise StoreUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def figures(self, range_: Range, key_ids: Collection[int] | None = None) -> Figures:
        """The figures of all keys, or of these keys."""

        def work(connection: Connection) -> Figures:
            now = _Span(range_, range_.first, key_ids)
            before = _Span(range_, range_.first - range_.length, key_ids)
            steps = now.sums(connection, "step")
            all_keys = key_ids is None
            return Figures(
                _total(steps.values()),
                _total(before.sums(connection, "all").values()).scaled(range_.elapsed),
                [(at, steps.get(at, UsageTotals())) for at in now.steps],
                now.latencies(connection) if all_keys else None,
                before.latencies(connection) if all_keys else None,
                _top_keys(connection, now.sums(connection, "key_id")),
            )

        return self._database.read(work)

    def by_key(self, range_: Range, key_ids: Collection[int]) -> dict[int, UsageTotals]:
        """The totals of each of these keys."""
        span = _Span(range_, range_.first, key_ids)
        return self._database.read(lambda connection: span.sums(connection, "key_id"))


@dataclass(frozen=True, slots=True)
class _Span:
    """The time from `since` (Unix seconds) for the length of a range; of some keys, or of all."""

    range_: Range
    since: int
    key_ids: Collection[int] | None

    @property
    def until(self) -> int:
        return self.since + self.range_.length

    @property
    def steps(self) -> range:
        return range(self.since, self.until, self.range_.step)

    def sums(self, connection: Connection, by: str) -> dict[int, UsageTotals]:
        """Totals by `step` (Unix seconds) or `key_id`; by `all`, there is one total under 0."""
        found: dict[int, UsageTotals] = {}
        for table, columns in self._counters():
            group = self._group(table, by)
            summed = [func.sum(column).label(name) for name, column in columns.items()]
            query = select(group.label("group"), *summed).where(*self._within(table))
            if self.key_ids is not None:
                query = query.where(table.c.key_id.in_(self.key_ids))
            if by != "all":
                query = query.group_by(group)
            for row in connection.execute(query).mappings():
                at = _unix(row["group"]) if isinstance(row["group"], date) else int(row["group"])
                sums = {name: int(row[name] or 0) for name in columns}
                found.setdefault(at, UsageTotals()).add(UsageTotals(**sums))
        return found

    def latencies(self, connection: Connection) -> Latencies:
        table = latency if self.range_.by_day else activity_latency
        query = select(table.c.bucket, func.sum(table.c.requests)).where(*self._within(table))
        rows = connection.execute(query.group_by(table.c.bucket).order_by(table.c.bucket)).all()
        return dict(zip(("p50", "p95", "p99"), percentiles(rows, 0.5, 0.95, 0.99), strict=True))

    def _counters(self) -> list[tuple[Table, dict[str, Any]]]:
        """The tables to sum, and their columns by the field names of UsageTotals."""
        if not self.range_.by_day:
            return [(activity, {name: activity.c[name] for name in COUNTERS})]
        tokens = usage.c.input_tokens + usage.c.output_tokens
        return [
            (traffic, {name: traffic.c[name] for name in COUNTED}),
            (usage, {"tokens": tokens, "cost_nano": usage.c.cost_nano}),
        ]

    def _group(self, table: Table, by: str) -> Any:
        if by == "all":
            return literal(0)
        if by == "step":
            return table.c.day if self.range_.by_day else table.c.start
        return table.c.key_id

    def _within(self, table: Table) -> list[Any]:
        if self.range_.by_day:
            return [table.c.day.between(_day(self.since), _day(self.until - 1))]
        return [
            table.c.span == self.range_.step,
            table.c.start >= self.since,
            table.c.start < self.until,
        ]


def _top_keys(
    connection: Connection, by_key: dict[int, UsageTotals]
) -> list[tuple[int, str, str, UsageTotals]]:
    """The keys with most requests: (id, name, mask, totals)."""
    top = sorted(by_key.items(), key=lambda entry: -entry[1].requests)[:TOP_KEYS]
    query = select(api_keys.c.id, api_keys.c.name, api_keys.c.mask)
    found = connection.execute(query.where(api_keys.c.id.in_([key_id for key_id, _ in top])))
    names = {row.id: (row.name, row.mask) for row in found}
    return [(key_id, *names[key_id], sums) for key_id, sums in top if key_id in names]


def _total(parts: Collection[UsageTotals]) -> UsageTotals:
    total = UsageTotals()
    for part in parts:
        total.add(part)
    return total


def _day(moment: int) -> date:
    return datetime.fromtimestamp(moment, UTC).date()


def _unix(day: date) -> int:
    return int(datetime.combine(day, datetime.min.time(), UTC).timestamp())
