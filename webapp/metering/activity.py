"""Counters by minute and by half hour, stored for hours or days.

The dashboard shows recent activity from them; traffic and usage have the counters by day.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from functools import partial

from sqlalchemy import BigInteger, Column, ColumnElement, Connection, Integer, Table, and_, or_

from webapp.storage.database import increment, metadata
from webapp.storage.retention import Expired
from webapp.storage.statements import execute_rows

activity = Table(
    "activity",
    metadata,
    Column("span", Integer, primary_key=True),  # seconds
    Column("start", BigInteger, primary_key=True),  # Unix seconds
    Column("key_id", Integer, primary_key=True),
    Column("requests", BigInteger, nullable=False),
    Column("hits", BigInteger, nullable=False),
    Column("misses", BigInteger, nullable=False),
    Column("errors", BigInteger, nullable=False),
    # Billed tokens and their cost; the ledger adds these two.
    Column("tokens", BigInteger, nullable=False),
    Column("cost_nano", BigInteger, nullable=False),
    Column("saved_nano", BigInteger, nullable=False),
    Column("refused_rate", BigInteger, nullable=False, server_default="0"),
    Column("refused_tokens", BigInteger, nullable=False, server_default="0"),
    Column("refused_budget", BigInteger, nullable=False, server_default="0"),
    Column("refused_parallel", BigInteger, nullable=False, server_default="0"),
)
activity_latency = Table(
    "activity_latency",
    metadata,
    Column("span", Integer, primary_key=True),
    Column("start", BigInteger, primary_key=True),
    Column("bucket", Integer, primary_key=True),  # as in traffic.latency
    Column("requests", BigInteger, nullable=False),
)

MINUTE, HALF_HOUR, DAY = 60, 1_800, 86_400
# For how many seconds rows of each span are stored.
RETENTION = {MINUTE: 3 * 3_600, HALF_HOUR: 15 * DAY}
SPANS = (*RETENTION, DAY)
COUNTERS = [column.name for column in activity.columns if not column.primary_key]


def this_minute() -> int:
    """The Unix seconds at which this minute began."""
    return int(time.time()) // MINUTE * MINUTE


def add(connection: Connection, counted: Iterable[tuple[int, int, Mapping[str, int]]]) -> None:
    """Add (minute, key id, counters by name) to all spans.

    Every writer locks rows in the order of their keys, so that writers cannot deadlock.
    """
    sums: defaultdict[tuple[int, int, int], Counter[str]] = defaultdict(Counter)
    for minute, key_id, counters in counted:
        for span in RETENTION:
            sums[span, minute - minute % span, key_id].update(counters)
    rows = [
        {"span": span, "start": start, "key_id": key_id}
        | {name: counters[name] for name in COUNTERS}
        for (span, start, key_id), counters in sorted(sums.items(), key=lambda entry: entry[0])
    ]
    execute_rows(connection, increment(connection, activity, COUNTERS), rows)


def add_latencies(connection: Connection, counted: Mapping[tuple[int, int], int]) -> None:
    """Add {(minute, bucket): requests} to all spans."""
    sums: Counter[tuple[int, int, int]] = Counter()
    for (minute, bucket), requests in counted.items():
        for span in RETENTION:
            sums[span, minute - minute % span, bucket] += requests
    rows = [
        {"span": span, "start": start, "bucket": bucket, "requests": requests}
        for (span, start, bucket), requests in sorted(sums.items())
    ]
    execute_rows(connection, increment(connection, activity_latency, ["requests"]), rows)


def expired() -> list[Expired]:
    """The rows that no report reads any more."""
    return [(table, partial(expired_rows, table)) for table in (activity, activity_latency)]


def expired_rows(table: Table, now: float, days: int | None = None) -> list[ColumnElement[bool]]:
    """The condition of the rows whose retention is over, in a table with `span` and `start`. Rows
    of days are stored for so many days; None keeps them."""
    kept = RETENTION if days is None else {**RETENTION, DAY: days * DAY}
    spans = (
        and_(table.c.span == span, table.c.start < now - seconds) for span, seconds in kept.items()
    )
    return [or_(*spans)]
