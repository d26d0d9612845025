"""Traffic counters: summed in the process, flushed to the database every second."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from datetime import UTC, date, datetime
from functools import partial
from operator import itemgetter
from typing import Any

from sqlalchemy import BigInteger, Column, Connection, Date, DateTime, Integer, Table, func, select

from webapp.accounts.keys import api_keys
from webapp.errors import StoreUnavailable
from webapp.metering import activity, histogram
from webapp.metering.rollups import forget_late
from webapp.metering.target_activity import NO_TARGET, RequestKey, add_requests
from webapp.metering.target_latency import LatencyKey, Timings
from webapp.metering.target_latency import add_latencies as add_target_latencies
from webapp.metering.totals import COUNTED, UsageTotals
from webapp.storage.database import Database, increment, metadata
from webapp.storage.statements import execute_rows

traffic = Table(
    "traffic",
    metadata,
    Column("day", Date, primary_key=True),
    Column("key_id", Integer, primary_key=True),
    Column("requests", BigInteger, nullable=False),
    Column("hits", BigInteger, nullable=False),
    Column("misses", BigInteger, nullable=False),
    Column("errors", BigInteger, nullable=False),
    Column("tokens", BigInteger, nullable=False),
    # The tokens and cost of answers that came from the cache or from another client's call.
    Column("saved_tokens", BigInteger, nullable=False),
    Column("saved_nano", BigInteger, nullable=False),
    # Requests that a limit refused, by the kind of limit.
    Column("refused_rate", BigInteger, nullable=False, server_default="0"),
    Column("refused_tokens", BigInteger, nullable=False, server_default="0"),
    Column("refused_budget", BigInteger, nullable=False, server_default="0"),
    Column("refused_parallel", BigInteger, nullable=False, server_default="0"),
)
latency = Table(
    "latency",
    metadata,
    Column("day", Date, primary_key=True),
    Column("bucket", Integer, primary_key=True),
    Column("requests", BigInteger, nullable=False),
)
service = Table(
    "service",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("since", DateTime(timezone=True), nullable=False),
)

# Each latency bucket is 5 % wider than the one before, so a percentile is off by at most that.
BUCKET_GROWTH = math.log(1.05)
# So many seconds are written in one transaction.
FLUSH_LENGTH = 15 * 60

COUNTERS = [column.name for column in traffic.columns if not column.primary_key]


class Traffic:
    """Counts requests, and reads the counters of all workers since the first start."""

    def __init__(self, database: Database) -> None:
        self._database = database
        # The counters by day and by key are sums of these.
        self._counts: dict[RequestKey, UsageTotals] = {}
        self._latency: Counter[tuple[int, int]] = Counter()
        self._target_latency: defaultdict[LatencyKey, Timings] = defaultdict(Timings)

    def count(
        self,
        key_id: int,
        counts: UsageTotals,
        milliseconds: float | None = None,
        *,
        endpoint: str = "",
        target: tuple[str, str] = NO_TARGET,
        first_token: float | None = None,
    ) -> None:
        """Add one request to what the next flush writes. One that was refused has no latency, and
        only a stream a time (ms) to its first token. `target` is a provider and a model. `counts`
        is not to be used afterwards."""
        minute = activity.this_minute()
        key = (minute, key_id, endpoint, *target)
        if found := self._counts.get(key):
            found.add(counts)
        else:
            self._counts[key] = counts
        if milliseconds is not None:
            self._latency[minute, _bucket(milliseconds)] += 1
            self._target_latency[minute, *target].total += histogram.of_one(milliseconds)
        if first_token is not None:
            self._target_latency[minute, *target].first_token += histogram.of_one(first_token)

    def flush(self) -> None:
        """Write the counts. If StoreUnavailable is raised, they stay for the next flush.

        After a long outage, all at once would take longer than a transaction may.
        """
        until = 0
        while (minutes := self._unwritten_minutes()) and until <= activity.this_minute():
            until = min(minutes) + FLUSH_LENGTH
            self._write_counts(until)
            self._write_latencies(until)

    def _unwritten_minutes(self) -> set[int]:
        return {key[0] for key in self._counts} | {key[0] for key in self._latency}

    def _write_counts(self, until: int) -> None:
        """Write the counts of the minutes before `until`."""
        counts = _taken(self._counts, until)
        if not counts:
            return
        try:
            self._database.write(partial(_add, counts))
        except BaseException:
            for key, totals in counts.items():
                self._counts.setdefault(key, UsageTotals()).add(totals)
            raise

    def _write_latencies(self, until: int) -> None:
        """Write the latencies of the minutes before `until`.

        In a transaction of their own: they have many rows, and settlements wait for those of
        `activity`, which counts lock.
        """
        timings = _taken(self._latency, until)
        target_timings = _taken(self._target_latency, until)
        if not timings:
            return
        try:
            self._database.write(partial(_add_latencies, timings, target_timings))
        except BaseException:
            self._latency.update(timings)
            for key, counted in target_timings.items():
                self._target_latency[key].add(counted)
            raise

    def counts(self, key_id: int) -> UsageTotals:
        """All counts of one key. May raise StoreUnavailable."""
        query = select(*_sums()).where(traffic.c.key_id == key_id)
        return self._database.read(lambda connection: _counts(connection.execute(query).one()))

    def counted_today(self, bucket: str) -> int:
        """The requests of a key (`key-<id>`) on this UTC day that are written; 0 if the database
        is unavailable."""
        today = (traffic.c.day == datetime.now(UTC).date(), traffic.c.key_id == int(bucket[4:]))
        query = select(func.coalesce(func.sum(traffic.c.requests), 0)).where(*today)
        try:
            return int(self._database.read(lambda c: c.execute(query).scalar_one()))
        except StoreUnavailable:
            return 0

    def all_counted_today(self, key_ids: Collection[int]) -> dict[int, int]:
        """The requests of each of these keys on this UTC day that are written. May raise
        StoreUnavailable."""
        today = (traffic.c.day == datetime.now(UTC).date(), traffic.c.key_id.in_(key_ids))
        query = select(traffic.c.key_id, func.sum(traffic.c.requests)).where(*today)
        rows = self._database.read(lambda c: c.execute(query.group_by(traffic.c.key_id)).all())
        return dict.fromkeys(key_ids, 0) | {key_id: int(count) for key_id, count in rows}

    def is_empty(self, key_ids: Collection[int] | None) -> bool:
        """Whether there are no counts, or none of these keys."""
        query = select(traffic.c.key_id).limit(1)
        if key_ids is not None:
            query = query.where(traffic.c.key_id.in_(key_ids))
        return self._database.read(lambda connection: connection.execute(query).first()) is None

    def totals(self) -> tuple[UsageTotals, dict[int, tuple[str, int]], datetime]:
        """All counts, {key id: (mask, requests)} and the start. May raise StoreUnavailable."""
        by_key = (
            select(traffic.c.key_id, api_keys.c.mask, func.sum(traffic.c.requests))
            .join(api_keys, api_keys.c.id == traffic.c.key_id)
            .group_by(traffic.c.key_id, api_keys.c.mask)
            .having(func.sum(traffic.c.requests) > 0)
            .order_by(traffic.c.key_id)
        )

        def work(connection: Connection) -> Any:
            return (
                _counts(connection.execute(select(*_sums())).one()),
                {id_: (mask, int(total)) for id_, mask, total in connection.execute(by_key)},
                connection.execute(select(service.c.since)).scalar_one(),
            )

        counts, keys, since = self._database.read(work)
        return counts, keys, since if since.tzinfo else since.replace(tzinfo=UTC)

    def percentiles(self, *shares: float) -> list[float | None]:
        """The latency percentiles (ms) for these shares (0..1) of all requests."""
        query = (
            select(latency.c.bucket, func.sum(latency.c.requests))
            .group_by(latency.c.bucket)
            .order_by(latency.c.bucket)
        )
        rows = self._database.read(lambda connection: connection.execute(query).all())
        return percentiles(rows, *shares)


def percentiles(rows: Any, *shares: float) -> list[float | None]:
    """The latency percentiles (ms) for these shares (0..1). `rows` are (bucket, requests)."""
    total = sum(int(requests) for _, requests in rows)
    return [_percentile(share * total, rows) for share in shares]


def _taken(counted: dict[Any, Any], until: int) -> dict[Any, Any]:
    """What was counted in minutes before `until`, which is removed."""
    return {key: counted.pop(key) for key in list(counted) if key[0] < until}


def _sums() -> list[Any]:
    return [func.coalesce(func.sum(traffic.c[name]), 0) for name in COUNTERS]


def _counts(row: Any) -> UsageTotals:
    return UsageTotals(**dict(zip(COUNTERS, map(int, row), strict=True)))


def _bucket(milliseconds: float) -> int:
    return math.ceil(math.log(max(milliseconds, 0.01)) / BUCKET_GROWTH)


def _percentile(rank: float, rows: Any) -> float | None:
    seen = 0
    for bucket, requests in rows:
        seen += int(requests)
        if seen >= rank:
            return round(math.exp(bucket * BUCKET_GROWTH), 2)
    return None


def _add(counts: Mapping[RequestKey, UsageTotals], connection: Connection) -> None:
    """Write counters. Each table's rows are sorted, and the tables written in this order (the
    ledger's transactions write some of them, in the same order), so that workers cannot deadlock.
    """
    by_day: defaultdict[tuple[date, int], UsageTotals] = defaultdict(UsageTotals)
    by_minute: defaultdict[tuple[int, int], UsageTotals] = defaultdict(UsageTotals)
    for (minute, key_id, *_), counted in counts.items():
        by_day[_day(minute), key_id].add(counted)
        by_minute[minute, key_id].add(counted)
    rows = [
        {"day": day, "key_id": key_id, **{name: getattr(counted, name) for name in COUNTERS}}
        for (day, key_id), counted in sorted(by_day.items(), key=itemgetter(0))
    ]
    forget_late(
        connection,
        {(span, minute - minute % span) for minute, _ in by_minute for span in activity.SPANS},
    )
    execute_rows(connection, increment(connection, traffic, COUNTERS), rows)
    activity.add(connection, [(*key, _activity(totals)) for key, totals in by_minute.items()])
    add_requests(connection, counts)


def _add_latencies(
    timings: Mapping[tuple[int, int], int],
    target_timings: Mapping[LatencyKey, Timings],
    connection: Connection,
) -> None:
    """Write histograms, in the same order in each worker."""
    execute_rows(connection, increment(connection, latency, ["requests"]), _buckets(timings))
    activity.add_latencies(connection, timings)
    add_target_latencies(connection, target_timings)


def _buckets(timings: Mapping[tuple[int, int], int]) -> list[dict[str, Any]]:
    sums: Counter[tuple[date, int]] = Counter()
    for (minute, bucket), requests in timings.items():
        sums[_day(minute), bucket] += requests
    return [
        {"day": day, "bucket": bucket, "requests": requests}
        for (day, bucket), requests in sorted(sums.items())
    ]


def _activity(totals: UsageTotals) -> dict[str, int]:
    """The counters for the activity table; the ledger adds the billed tokens and cost."""
    return {name: getattr(totals, name) for name in COUNTED}


def _day(moment: int) -> date:
    return datetime.fromtimestamp(moment, UTC).date()
