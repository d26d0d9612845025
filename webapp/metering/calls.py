"""The ledger's table: its columns, the queries on it, and its retention."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import partial
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Date,
    Float,
    Integer,
    RowMapping,
    String,
    Table,
    func,
    select,
    tuple_,
    union_all,
)

from webapp import money
from webapp.llm.calls import CallState
from webapp.metering.budgets import budgets, starts
from webapp.storage.database import Database, metadata
from webapp.storage.retention import Expired

ledger = Table(
    "ledger",
    metadata,
    # Made of the worker's id and a counter, so it is known before the row is written.
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("worker_id", Integer, nullable=False),
    Column("key_id", Integer, nullable=False),
    Column("request_id", String(128), nullable=False),
    Column("endpoint", String(64), nullable=False),
    Column("route", String(300), nullable=False),
    Column("provider", String(32), nullable=False),
    Column("model", String(256), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("state", String(10), nullable=False),
    Column("error", String(40)),
    # `day` is the UTC day whose budgets the call belongs to. Times are Unix seconds.
    Column("day", Date, nullable=False),
    Column("reserved_at", Float, nullable=False),
    Column("settled_at", Float),
    Column("ceiling_nano", BigInteger),
    Column("ceiling_input_tokens", BigInteger, nullable=False),
    Column("ceiling_output_tokens", BigInteger, nullable=False),
    Column("cost_nano", BigInteger),
    Column("input_tokens", BigInteger, nullable=False),
    Column("cached_input_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("cache_write_tokens", BigInteger, nullable=False, server_default="0"),
    Column("estimated", Boolean, nullable=False),
    # What answered: the provider's name of the model, and the tier that it served the call at.
    Column("answered_model", String(256)),
    Column("service_tier", String(20)),
    # Of a failed call: the provider's status and words.
    Column("provider_status", Integer),
    Column("provider_message", String(1000)),
    # Of a call for a line of a batch.
    Column("batch_id", String(40)),
    Column("batch_line", Integer),
    # The budget of a session, where it has a limit.
    Column("session_id", String(40)),
)

TOKEN_COLUMNS = ("input_tokens", "cached_input_tokens", "cache_write_tokens", "output_tokens")

NO_WORKER = 0  # of calls that no worker waits for: those in a batch of the provider's own
PAGE = 1_000
DRIFT_TTL = 60.0  # seconds
DAY = 86_400  # seconds
MAX_ROWS_COUNTED = 10_000


@dataclass(frozen=True, slots=True)
class ProviderCalls:
    """A provider's calls of a period that have ended, and its latest ones of all times.

    `p95_milliseconds` and `last_success` (Unix seconds) are of those that succeeded.
    """

    calls: int
    failed: int
    p95_milliseconds: float | None
    last_success: float | None
    last_failure: RowMapping | None


class Calls:
    """Reads the ledger. Every method may raise StoreUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._drift, self._drift_until = 0, 0.0

    def latest(
        self,
        *,
        request_id: str | None = None,
        key_id: int | None = None,
        before: float | None = None,
        count: int = 100,
    ) -> list[dict[str, Any]]:
        """The newest calls, optionally of a request or a key, or reserved before a Unix time."""
        query = select(ledger).order_by(ledger.c.reserved_at.desc()).limit(count)
        if request_id is not None:
            query = query.where(ledger.c.request_id == request_id)
        if key_id is not None:
            query = query.where(ledger.c.key_id == key_id)
        if before is not None:
            query = query.where(ledger.c.reserved_at < before)
        rows = self._database.read(partial(_rows, query))
        return [_shown(row) for row in rows]

    def of_batch(
        self, batch_id: str, key_id: int, first: float, last: float, count: int = 20
    ) -> list[dict[str, Any]]:
        """The newest calls for lines of a batch, all reserved between these Unix times."""
        query = select(ledger).where(
            ledger.c.batch_id == batch_id,
            # These are indexed, `batch_id` is not.
            ledger.c.key_id == key_id,
            ledger.c.reserved_at.between(first, last),
        )
        query = query.order_by(ledger.c.reserved_at.desc()).limit(count)
        rows = self._database.read(partial(_rows, query))
        return [_shown(row) for row in rows]

    def by_provider(self, since: float) -> tuple[dict[str, ProviderCalls], float]:
        """Each provider's calls since a Unix time, as far as they are among the newest, and since
        when (Unix seconds) they are counted."""
        return self._database.read(partial(_by_provider, since))

    def of_days(self, since: date, until: date) -> Iterator[dict[str, Any]]:
        """Every call of these days (UTC, both included), oldest first, read page by page."""
        # `reserved_at` is indexed, `day` is not. A day of margin allows for a clock that was set.
        after = _unix(since) - 86_400.0, 0
        while True:
            position = tuple_(ledger.c.reserved_at, ledger.c.id)
            query = (
                select(ledger)
                .where(
                    ledger.c.day.between(since, until),
                    position > tuple_(*after),
                    ledger.c.reserved_at < _unix(until) + 2 * 86_400.0,
                )
                .order_by(ledger.c.reserved_at, ledger.c.id)
                .limit(PAGE)
            )
            rows = self._database.read(partial(_rows, query))
            yield from map(_shown, rows)
            if len(rows) < PAGE:
                return
            after = rows[-1]["reserved_at"], rows[-1]["id"]

    def drift(self) -> int:
        """Nano-USD by which the budgets of this month differ from the ledger's rows; 0 is right.

        Cached for a minute, as it reads all rows of the month.
        """
        if time.monotonic() >= self._drift_until:
            self._drift = self._database.read(_drift)
            self._drift_until = time.monotonic() + DRIFT_TTL
        return self._drift


def expired(keep_days: int) -> Expired:
    """Settled rows that are older than `keep_days`. The usage table is not affected."""
    return ledger, lambda now: (
        ledger.c.reserved_at < now - keep_days * DAY,
        ledger.c.state != CallState.RESERVED,
    )


def _by_provider(since: float, connection: Connection) -> tuple[dict[str, ProviderCalls], float]:
    newest = (
        select(ledger.c.provider, ledger.c.state, ledger.c.reserved_at, ledger.c.settled_at)
        .order_by(ledger.c.reserved_at.desc())
        .limit(MAX_ROWS_COUNTED)
        .subquery()
    )
    in_period = newest.c.reserved_at >= since
    duration = newest.c.settled_at - newest.c.reserved_at
    alike = (newest.c.provider, newest.c.state, in_period)
    share = func.cume_dist().over(partition_by=alike, order_by=duration)
    ranked = select(
        newest, in_period.label("in_period"), duration.label("seconds"), share.label("share")
    ).subquery()
    row = ranked.c
    succeeded, failed = (row.state == state for state in (CallState.SETTLED, CallState.FAILED))
    counted = row.in_period & (row.state != CallState.RESERVED)
    totals = select(
        row.provider,
        func.count().filter(counted).label("calls"),
        func.count().filter(counted & failed).label("failed"),
        func.min(row.seconds).filter(counted & succeeded & (row.share >= 0.95)).label("p95"),
        func.max(row.settled_at).filter(succeeded).label("last_success"),
        func.max(row.reserved_at).filter(failed).label("last_failure"),
        func.count().label("rows"),
        func.min(row.reserved_at).label("oldest"),
    ).group_by(row.provider)
    found = connection.execute(totals).all()
    times = [(one.provider, one.last_failure) for one in found if one.last_failure is not None]
    failures = select(ledger).where(
        tuple_(ledger.c.provider, ledger.c.reserved_at).in_(times),
        # SQLite uses the index for this one alone.
        ledger.c.reserved_at.in_([at for _, at in times]),
        ledger.c.state == CallState.FAILED,
    )
    last_failures = {one["provider"]: one for one in _rows(failures, connection)} if times else {}
    figures = {
        one.provider: ProviderCalls(
            one.calls,
            one.failed,
            None if one.p95 is None else one.p95 * 1000,
            one.last_success,
            last_failures.get(one.provider),
        )
        for one in found
    }
    is_cut = sum(one.rows for one in found) == MAX_ROWS_COUNTED
    oldest = min((one.oldest for one in found), default=since)
    return figures, max(since, oldest) if is_cut else since


def _rows(query: Any, connection: Connection) -> Sequence[RowMapping]:
    return connection.execute(query).mappings().all()


def _shown(row: RowMapping) -> dict[str, Any]:
    """A row for clients: amounts in USD, times in ISO 8601."""
    shown = {name: value for name, value in row.items() if name != "worker_id"}
    shown["day"] = row["day"].isoformat()
    for name in ("reserved_at", "settled_at"):
        moment = shown[name]
        shown[name] = moment and datetime.fromtimestamp(moment, UTC).isoformat()
    for name in ("ceiling", "cost"):
        shown[f"{name}_usd"] = money.to_usd(shown.pop(f"{name}_nano"))
    return shown


def _unix(day: date) -> float:
    return datetime.combine(day, datetime.min.time(), UTC).timestamp()


def _drift(connection: Connection) -> int:
    """Compare this month's budgets, key by key, with the sums of the ledger's rows.

    In one statement: in PostgreSQL, a second one would see rows written in between.
    """
    month = starts(datetime.fromtimestamp(time.time(), UTC).date())["month"]
    settled = ledger.c.state != CallState.RESERVED
    of_rows = (
        select(
            ledger.c.key_id.label("key_id"),
            func.coalesce(func.sum(ledger.c.cost_nano).filter(settled), 0).label("spent"),
            func.coalesce(func.sum(ledger.c.ceiling_nano).filter(~settled), 0).label("reserved"),
        )
        .where(ledger.c.day >= month, ledger.c.reserved_at > _unix(month) - 86_400.0)
        .group_by(ledger.c.key_id)
    )
    of_budgets = select(budgets.c.key_id, -budgets.c.spent_nano, -budgets.c.reserved_nano).where(
        budgets.c.period == "month", budgets.c.start == month
    )
    both = union_all(of_rows, of_budgets).subquery()
    differences = select(func.sum(both.c.spent), func.sum(both.c.reserved)).group_by(both.c.key_id)
    return sum(abs(int(nano)) for row in connection.execute(differences) for nano in row)
