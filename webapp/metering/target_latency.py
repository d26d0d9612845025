"""Latencies by target, and of all targets together, by minute, half hour and day.

Of two kinds: the time until a request has ended, and until the first chunk of a stream.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Integer,
    LargeBinary,
    String,
    Table,
    bindparam,
    select,
    tuple_,
    update,
)

from webapp.metering.activity import SPANS, expired_rows
from webapp.metering.histogram import from_bytes, to_bytes
from webapp.metering.ranges import MAX_DAYS
from webapp.metering.stored_text import MAX_MODEL_LENGTH, cleaned
from webapp.storage.database import metadata, upsert
from webapp.storage.retention import Expired
from webapp.storage.statements import execute_rows

target_latency = Table(
    "target_latency",
    metadata,
    Column("span", Integer, primary_key=True),  # seconds
    Column("start", BigInteger, primary_key=True),  # Unix seconds
    Column("provider", String(32), primary_key=True),
    Column("model", String(256), primary_key=True),
    Column("total", LargeBinary, nullable=False),
    Column("first_token", LargeBinary, nullable=False),
)
_KEY = tuple(target_latency.primary_key.columns)
_COLUMNS = [column.name for column in target_latency.columns]

# A row has some hundred bytes: those of days are deleted too, when no range reaches them.
KEPT_DAYS = 2 * MAX_DAYS
# The provider and the model of the rows for all targets together, for where there are many.
ALL_TARGETS = "*"
# Databases limit the parameters of a statement.
ROWS_AT_ONCE = 1_000

# Minute, provider and model.
LatencyKey = tuple[int, str, str]


@dataclass(slots=True)
class Timings:
    """Histograms of both kinds."""

    total: int = 0
    first_token: int = 0

    def add(self, other: Timings) -> None:
        self.total += other.total
        self.first_token += other.first_token


def read_timings(total: bytes, first_token: bytes) -> Timings:
    return Timings(from_bytes(total), from_bytes(first_token))


def add_latencies(connection: Connection, counted: Mapping[LatencyKey, Timings]) -> None:
    """Add requests to all spans, in the order of the primary key, so that writers cannot
    deadlock. The transaction holds the rows until it ends."""
    sums: defaultdict[tuple[Any, ...], Timings] = defaultdict(Timings)
    for (minute, provider, model), timings in counted.items():
        for span in SPANS:
            start = minute - minute % span
            sums[span, start, provider, cleaned(model, MAX_MODEL_LENGTH)].add(timings)
            sums[span, start, ALL_TARGETS, ALL_TARGETS].add(timings)
    keys = sorted(sums)
    for first in range(0, len(keys), ROWS_AT_ONCE):
        _add(connection, {key: sums[key] for key in keys[first : first + ROWS_AT_ONCE]})


def _add(connection: Connection, sums: Mapping[tuple[Any, ...], Timings]) -> None:
    """Add to rows, in their order. Those that are missing are inserted first, so that all can be
    locked: no other writer changes them between the reading and the writing."""
    empty = [dict(zip(_COLUMNS, (*key, b"", b""), strict=True)) for key in sums]
    execute_rows(connection, _missing(connection.dialect.name), empty)
    rows = (
        select(target_latency)
        .where(tuple_(*_KEY).in_(list(sums)))
        .order_by(*_KEY)
        .with_for_update()
    )
    updated = []
    for *key, total, first_token in connection.execute(rows).all():
        timings = read_timings(total, first_token)
        timings.add(sums[tuple(key)])
        values = (*key, to_bytes(timings.total), to_bytes(timings.first_token))
        updated.append({f"new_{name}": value for name, value in zip(_COLUMNS, values, strict=True)})
    connection.execute(_UPDATE, updated)


@lru_cache
def _missing(dialect_name: str) -> Any:
    return upsert(dialect_name, target_latency).on_conflict_do_nothing()


_UPDATE = (
    update(target_latency)
    .where(*(column == bindparam(f"new_{column.name}") for column in _KEY))
    .values({name: bindparam(f"new_{name}") for name in ("total", "first_token")})
)


def expired() -> Expired:
    """The rows that no report reads any more."""
    return target_latency, partial(expired_rows, target_latency, days=KEPT_DAYS)
