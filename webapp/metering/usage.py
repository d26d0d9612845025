"""Usage by day, key, provider, model and endpoint, and the reports on it.

The ledger updates it in the transaction that settles a call, so the two never differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from sqlalchemy import BigInteger, Column, Connection, Date, Integer, String, Table, func, select

from webapp import money
from webapp.accounts.keys import api_keys
from webapp.metering.totals import UsageTotals
from webapp.storage.database import Database, metadata

usage = Table(
    "usage",
    metadata,
    Column("day", Date, primary_key=True),
    Column("key_id", Integer, primary_key=True),
    Column("provider", String(32), primary_key=True),
    Column("model", String(256), primary_key=True),
    Column("endpoint", String(64), primary_key=True),
    Column("calls", BigInteger, nullable=False),
    Column("failed", BigInteger, nullable=False),
    Column("estimated", BigInteger, nullable=False),
    Column("unpriced", BigInteger, nullable=False),
    Column("input_tokens", BigInteger, nullable=False),
    Column("cached_input_tokens", BigInteger, nullable=False),
    Column("cache_write_tokens", BigInteger, nullable=False, server_default="0"),
    Column("output_tokens", BigInteger, nullable=False),
    Column("cost_nano", BigInteger, nullable=False),
)

# What a report can be grouped by, and the columns that this selects.
DIMENSIONS = {
    "day": ("day",),
    "key": ("key_id",),
    "provider": ("provider",),
    "model": ("provider", "model"),
    "endpoint": ("endpoint",),
}
COUNTERS = [column.name for column in usage.columns if not column.primary_key]


@dataclass(frozen=True, slots=True)
class Selection:
    """Filters for usage: the UTC days from `since` to `until`, both included. None matches all."""

    since: date
    until: date
    key_id: int | None = None
    provider: str | None = None
    model: str | None = None
    endpoint: str | None = None

    def conditions(self, table: Table) -> list[Any]:
        equal = {
            name: getattr(self, name)
            for name in ("key_id", "provider", "model", "endpoint")
            if getattr(self, name) is not None
        }
        days = table.c.day.between(self.since, self.until)
        return [days, *(table.c[name] == value for name, value in equal.items())]


class UsageReports:
    """Totals of the usage. Every method may raise StoreUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def totals(self, key_id: int | None = None) -> UsageTotals:
        """Tokens and cost of all time, of all keys or of one key."""
        tokens = func.sum(usage.c.input_tokens + usage.c.output_tokens)
        query = select(func.coalesce(tokens, 0), func.coalesce(func.sum(usage.c.cost_nano), 0))
        if key_id is not None:
            query = query.where(usage.c.key_id == key_id)
        row = self._database.read(lambda connection: connection.execute(query).one())
        return UsageTotals(tokens=int(row[0]), cost_nano=int(row[1]))

    def report(self, selection: Selection, by: Sequence[str]) -> list[dict[str, Any]]:
        """A row of totals for each combination of `by` (names of DIMENSIONS); one if it is empty.

        If grouped by key, rows have `key` (its name) and `api_key` (its mask).
        """
        columns = [usage.c[name] for name in dict.fromkeys(n for d in by for n in DIMENSIONS[d])]
        sums = [func.coalesce(func.sum(usage.c[name]), 0).label(name) for name in COUNTERS]
        query = select(*columns, *sums).where(*selection.conditions(usage))
        query = query.group_by(*columns).order_by(*columns)

        def work(connection: Connection) -> list[dict[str, Any]]:
            result = connection.execute(query)
            titles = [str(title) for title in result.keys()]  # noqa: SIM118 it is no dict
            rows = [dict(zip(titles, row, strict=True)) for row in result]
            names = _names(connection) if "key" in by else {}
            return [_shown(row, names) for row in rows]

        return self._database.read(work)


def _names(connection: Connection) -> dict[int, tuple[str, str]]:
    rows = connection.execute(select(api_keys.c.id, api_keys.c.name, api_keys.c.mask))
    return {row.id: (row.name, row.mask) for row in rows}


def _shown(row: dict[str, Any], names: dict[int, tuple[str, str]]) -> dict[str, Any]:
    for name in COUNTERS:
        row[name] = int(row[name])  # PostgreSQL's sums are decimals
    if names:
        row["key"], row["api_key"] = names.get(row["key_id"], (None, None))
    row["cost_usd"] = row.pop("cost_nano") / money.NANO
    return row
