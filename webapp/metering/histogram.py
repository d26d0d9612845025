"""Histograms of latencies (ms), each stored as one number, and their percentiles.

A bucket's requests are one digit of the number, so two histograms are added by adding the numbers:
the overview adds some thousand. Buckets grow by a constant factor, as in DDSketch
(https://arxiv.org/abs/1908.10693), which bounds the relative error of each percentile.
"""

from __future__ import annotations

import math
import struct
from typing import NamedTuple

# Bucket n holds what took more than SHORTEST * 1.02 ** (n - 1) ms and at most SHORTEST * 1.02 ** n
# ms; bucket 0 also what took less, the last one also what took more.
GROWTH = math.log(1.02)
SHORTEST = 0.1
LAST_BUCKET = 1_023  # begins at 17 hours
# A digit: a bucket has place for four billion requests.
BITS = 32

SHARES = (0.5, 0.95, 0.99)


class Latencies(NamedTuple):
    """Percentiles in ms; None where nothing was measured."""

    p50: float | None = None
    p95: float | None = None
    p99: float | None = None


def of_one(milliseconds: float) -> int:
    """The histogram of a single request."""
    bucket = math.ceil(math.log(max(milliseconds, SHORTEST) / SHORTEST) / GROWTH)
    return 1 << BITS * min(bucket, LAST_BUCKET)


def to_bytes(histogram: int) -> bytes:
    return histogram.to_bytes(math.ceil(histogram.bit_length() / BITS) * BITS // 8, "little")


def from_bytes(stored: bytes) -> int:
    return int.from_bytes(stored, "little")


def latencies_of(histogram: int) -> Latencies:
    """The percentiles, interpolated inside of a bucket."""
    buckets = _buckets(histogram)
    total = sum(requests for _, requests in buckets)
    if not total:
        return Latencies()
    return Latencies(*(_percentile(share * total, buckets) for share in SHARES))


def requests_of(histogram: int) -> int:
    return sum(requests for _, requests in _buckets(histogram))


def latencies_among(milliseconds: list[float]) -> Latencies:
    """The percentiles of single measurements, which are sorted in place."""
    milliseconds.sort()
    count = len(milliseconds)
    return Latencies(
        *(milliseconds[math.ceil(share * count) - 1] if count else None for share in SHARES)
    )


def _buckets(histogram: int) -> list[tuple[int, int]]:
    """(Bucket, requests) where there are some, the shortest first."""
    lowest_bit = histogram & -histogram
    first = max(0, lowest_bit.bit_length() - 1) // BITS
    stored = to_bytes(histogram >> first * BITS)
    digits = struct.unpack(f"<{len(stored) * 8 // BITS}I", stored)
    return [(bucket, requests) for bucket, requests in enumerate(digits, first) if requests]


def _percentile(rank: float, buckets: list[tuple[int, int]]) -> float:
    seen = 0
    for bucket, requests in buckets:
        seen += requests
        if seen >= rank:
            position = bucket - (seen - rank) / requests
            return round(SHORTEST * math.exp(position * GROWTH), 2)
    raise AssertionError
