"""What happened in a range of time, compared with the range before: the figures of the dashboard.

An hour and a day are made of minutes, which end now; weeks and months of whole days (UTC), today
included, so that they equal the reports of the usage.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass, fields
from datetime import UTC, date, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, func, select

from webapp.accounts.keys import api_keys
from webapp.metering.traffic import latency, minute_latency, minutes, percentiles, traffic
from webapp.metering.usage import usage
from webapp.storage.database import Database

DAY = 86_400
TOP = 5


@dataclass(frozen=True, slots=True)
class Range:
    """So many steps of so many seconds; by days, where a step is one."""

    name: str
    title: str
    step: int
    steps: int

    @property
    def by_day(self) -> bool:
        return self.step == DAY

    @property
    def first(self) -> int:
        """Unix seconds at which its first step begins; its last one is the running one."""
        return (int(time.time()) // self.step - self.steps + 1) * self.step


RANGES = {
    one.name: one
    for one in (
        Range("1h", "1 hour", 60, 60),
        Range("24h", "24 hours", 1_800, 48),
        Range("7d", "7 days", DAY, 7),
        Range("30d", "30 days", DAY, 30),
    )
}


@dataclass(slots=True)
class Sums:
    """What is added up; money in nano-USD."""

    requests: int = 0
    hits: int = 0
    misses: int = 0
    errors: int = 0
    tokens: int = 0
    cost_nano: int = 0
    saved_nano: int = 0

    def add(self, **more: int | None) -> None:
        for name, value in more.items():
            setattr(self, name, getattr(self, name) + int(value or 0))

    @property
    def hit_rate(self) -> float | None:
        looked_up = self.hits + self.misses
        return self.hits / looked_up if looked_up else None

    @property
    def error_rate(self) -> float | None:
        return self.errors / self.requests if self.requests else None


COUNTERS = [field.name for field in fields(Sums)]
COUNTED = ("requests", "hits", "misses", "errors", "saved_nano")
Latencies = dict[str, float | None]


@dataclass(frozen=True, slots=True)
class Figures:
    """A range: its sums, those of the range before, each step (Unix seconds, sums), the latencies
    (ms, by p50, p95, p99; None where they are not told by key), and the keys with most requests:
    (id, name, mask, sums)."""

    now: Sums
    before: Sums
    steps: list[tuple[int, Sums]]
    latency: Latencies | None
    latency_before: Latencies | None
    top_keys: list[tuple[int, str, str, Sums]]


class Overview:
    """Adds figures up. Raises StoreUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def figures(self, asked: Range, key_ids: Collection[int] | None = None) -> Figures:
        """Of all keys, or of these only."""

        def work(connection: Connection) -> Figures:
            first = asked.first
            length = asked.step * asked.steps
            steps, by_key = _sums(connection, asked, first, first + length, key_ids)
            before, _ = _sums(connection, asked, first - length, first, key_ids)
            latencies = [None, None] if key_ids is not None else [
                _latencies(connection, asked, since, since + length)
                for since in (first, first - length)
            ]  # fmt: skip
            return Figures(
                _total(steps.values()),
                _total(before.values()),
                [
                    (at, steps.get(at, Sums()))
                    for at in range(first, first + length, asked.step)
                ],
                latencies[0],
                latencies[1],
                _named(connection, by_key),
            )  # fmt: skip

        return self._database.read(work)

    def by_key(self, asked: Range, key_ids: Collection[int]) -> dict[int, Sums]:
        """The sums of each of these keys."""
        first = asked.first
        until = first + asked.step * asked.steps
        return self._database.read(lambda c: _sums(c, asked, first, until, key_ids)[1])


def _sums(
    connection: Connection, asked: Range, since: int, until: int, key_ids: Collection[int] | None
) -> tuple[dict[int, Sums], dict[int, Sums]]:
    """By step and by key."""
    by_step: dict[int, Sums] = {}
    by_key: dict[int, Sums] = {}

    def add(at: int, key_id: int, **sums: int) -> None:
        by_step.setdefault(at, Sums()).add(**sums)
        by_key.setdefault(key_id, Sums()).add(**sums)

    def rows(table: Any, step: Any, columns: dict[str, Any], *where: Any) -> Any:
        summed = [func.sum(column).label(name) for name, column in columns.items()]
        query = select(step.label("step"), table.c.key_id, *summed).where(*where)
        if key_ids is not None:
            query = query.where(table.c.key_id.in_(key_ids))
        return connection.execute(query.group_by(step, table.c.key_id)).mappings()

    if not asked.by_day:
        step = minutes.c.minute - minutes.c.minute % asked.step
        within = (minutes.c.minute >= since, minutes.c.minute < until)
        for row in rows(minutes, step, {name: minutes.c[name] for name in COUNTERS}, *within):
            add(int(row["step"]), row["key_id"], **{name: row[name] for name in COUNTERS})
        return by_step, by_key
    days = (_day(since), _day(until) - timedelta(days=1))
    bought = {
        "tokens": usage.c.input_tokens + usage.c.output_tokens,
        "cost_nano": usage.c.cost_nano,
    }
    counted = {name: traffic.c[name] for name in COUNTED}
    for table, columns in ((traffic, counted), (usage, bought)):
        for row in rows(table, table.c.day, columns, table.c.day.between(*days)):
            add(_unix(row["step"]), row["key_id"], **{name: row[name] for name in columns})
    return by_step, by_key


def _latencies(connection: Connection, asked: Range, since: int, until: int) -> Latencies:
    table = latency if asked.by_day else minute_latency
    within = (
        [latency.c.day.between(_day(since), _day(until) - timedelta(days=1))]
        if asked.by_day
        else [minute_latency.c.minute >= since, minute_latency.c.minute < until]
    )
    query = select(table.c.bucket, func.sum(table.c.requests)).where(*within)
    rows = connection.execute(query.group_by(table.c.bucket).order_by(table.c.bucket)).all()
    return dict(zip(("p50", "p95", "p99"), percentiles(rows, 0.5, 0.95, 0.99), strict=True))


def _named(connection: Connection, by_key: dict[int, Sums]) -> list[tuple[int, str, str, Sums]]:
    """Those with most requests."""
    top = sorted(by_key.items(), key=lambda entry: -entry[1].requests)[:TOP]
    query = select(api_keys.c.id, api_keys.c.name, api_keys.c.mask)
    found = connection.execute(query.where(api_keys.c.id.in_([key_id for key_id, _ in top])))
    names = {row.id: (row.name, row.mask) for row in found}
    return [(key_id, *names[key_id], sums) for key_id, sums in top if key_id in names]


def _total(parts: Collection[Sums]) -> Sums:
    total = Sums()
    for part in parts:
        total.add(**{name: getattr(part, name) for name in COUNTERS})
    return total


def _day(moment: int) -> date:
    return datetime.fromtimestamp(moment, UTC).date()


def _unix(day: date) -> int:
    return int(datetime.combine(day, datetime.min.time(), UTC).timestamp())
