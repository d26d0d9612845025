"""Histograms of latencies by target, by minute, half hour and day.

Two kinds: the time until a request has ended, and until the first chunk of a stream.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

from sqlalchemy import BigInteger, Column, Connection, Integer, String, Table

from webapp.metering.activity import DAY, RETENTION, expired_rows
from webapp.metering.ranges import MAX_DAYS
from webapp.metering.stored_text import MAX_MODEL_LENGTH, cleaned
from webapp.storage.database import increment, metadata
from webapp.storage.retention import Expired
from webapp.storage.statements import execute_rows

target_latency = Table(
    "target_latency",
    metadata,
    Column("span", Integer, primary_key=True),  # seconds
    Column("start", BigInteger, primary_key=True),  # Unix seconds
    Column("provider", String(32), primary_key=True),
    Column("model", String(256), primary_key=True),
    Column("kind", String(12), primary_key=True),
    Column("bucket", Integer, primary_key=True),
    Column("requests", BigInteger, nullable=False),
)

# A model has some hundred rows a day: those of days are deleted too, when no range reaches them.
KEPT_DAYS = 2 * MAX_DAYS

TOTAL, FIRST_TOKEN = "total", "first_token"
# Bucket n holds what took more than 1.02 ** (n - 1) ms and at most 1.02 ** n ms.
BUCKET_GROWTH = math.log(1.02)
SHORTEST = 0.01  # ms

# Minute, provider, model, kind and bucket.
LatencyKey = tuple[int, str, str, str, int]


class Latencies(NamedTuple):
    """Percentiles in ms; None where nothing was measured."""

    p50: float | None = None
    p95: float | None = None
    p99: float | None = None


SHARES = (0.5, 0.95, 0.99)


def bucket_of(milliseconds: float) -> int:
    return math.ceil(math.log(max(milliseconds, SHORTEST)) / BUCKET_GROWTH)


def latencies_of(buckets: Mapping[int, int]) -> Latencies:
    """The percentiles of {bucket: requests}, interpolated inside of a bucket."""
    total = sum(buckets.values())
    if not total:
        return Latencies()
    ordered = sorted(buckets.items())
    return Latencies(*(_percentile(share * total, ordered) for share in SHARES))


def latencies_among(milliseconds: list[float]) -> Latencies:
    """The percentiles of single measurements, which are sorted in place."""
    milliseconds.sort()
    count = len(milliseconds)
    return Latencies(
        *(milliseconds[math.ceil(share * count) - 1] if count else None for share in SHARES)
    )


def _percentile(rank: float, ordered: list[tuple[int, int]]) -> float:
    seen = 0
    for bucket, requests in ordered:
        seen += requests
        if seen >= rank:
            position = bucket - (seen - rank) / requests
            return round(math.exp(position * BUCKET_GROWTH), 2)
    raise AssertionError


def add_latencies(connection: Connection, counted: Mapping[LatencyKey, int]) -> None:
    """Add requests to all spans, in the order of the primary key."""
    sums: Counter[tuple[object, ...]] = Counter()
    for (minute, provider, model, kind, bucket), requests in counted.items():
        target = (provider, cleaned(model, MAX_MODEL_LENGTH), kind, bucket)
        for span in (*RETENTION, DAY):
            sums[(span, minute - minute % span, *target)] += requests
    names = [column.name for column in target_latency.columns]
    rows = [
        dict(zip(names, (*key, requests), strict=True)) for key, requests in sorted(sums.items())
    ]
    execute_rows(connection, increment(connection, target_latency, ["requests"]), rows)


def expired() -> Expired:
    """The rows that no report reads any more."""
    return target_latency, partial(expired_rows, target_latency, days=KEPT_DAYS)
