"""The latencies of a time range: percentiles, by step and by target."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection, func, select

from webapp.metering.counters import group, within
from webapp.metering.ranges import Range, Window
from webapp.metering.request_log import requests
from webapp.metering.request_search import MAX_ROWS_SCANNED
from webapp.metering.selected import Selected
from webapp.metering.target_latency import (
    FIRST_TOKEN,
    TOTAL,
    Latencies,
    latencies_among,
    latencies_of,
    target_latency,
)

MAX_SAMPLED = 10_000


@dataclass(frozen=True, slots=True)
class LatencyFigures:
    """Until the end of requests, and until the first token of streams.

    `steps` are (Unix seconds, total, first token), `targets` (provider, model, requests, total,
    first token), those with most requests first, and `providers` (total, first token) by name.
    `sampled` says from how many requests of the log they are; None where all were counted.
    """

    now: Latencies
    before: Latencies
    first_token: Latencies
    first_token_before: Latencies
    steps: list[tuple[int, Latencies, Latencies]]
    targets: list[tuple[str, str, int, Latencies, Latencies]]
    providers: dict[str, tuple[Latencies, Latencies]]
    sampled: int | None = None


class _Histograms:
    """Requests by bucket, of both kinds."""

    def __init__(self) -> None:
        self.kinds: dict[str, dict[int, int]] = {TOTAL: {}, FIRST_TOKEN: {}}

    def add(self, kind: str, bucket: int, count: int) -> None:
        buckets = self.kinds[kind]
        buckets[bucket] = buckets.get(bucket, 0) + count

    @property
    def requests(self) -> int:
        return sum(self.kinds[TOTAL].values())

    @property
    def latencies(self) -> tuple[Latencies, Latencies]:
        return latencies_of(self.kinds[TOTAL]), latencies_of(self.kinds[FIRST_TOKEN])


class _Samples:
    """Latencies (ms) of single requests, of both kinds."""

    def __init__(self) -> None:
        self._total: list[float] = []
        self._first_token: list[float] = []

    def add(self, total: float, first_token: float | None) -> None:
        self._total.append(total)
        if first_token is not None:
            self._first_token.append(first_token)

    @property
    def requests(self) -> int:
        return len(self._total)

    @property
    def latencies(self) -> tuple[Latencies, Latencies]:
        return latencies_among(self._total), latencies_among(self._first_token)


def read_latencies(connection: Connection, range_: Range, selected: Selected) -> LatencyFigures:
    if selected.key_ids is not None or selected.endpoint is not None:
        return _sampled(connection, range_.window, selected)
    return _counted(connection, range_.window, selected)


def _counted(connection: Connection, window: Window, selected: Selected) -> LatencyFigures:
    now, earlier = _Histograms(), _Histograms()
    steps = [_Histograms() for _ in window.times]
    targets: defaultdict[tuple[str, str], _Histograms] = defaultdict(_Histograms)
    providers: defaultdict[str, _Histograms] = defaultdict(_Histograms)
    for at, kind, bucket, count in _buckets(connection, window, selected, "time"):
        now.add(kind, bucket, count)
        steps[window.index(at)].add(kind, bucket, count)
    for provider, model, kind, bucket, count in _buckets(
        connection, window, selected, "provider", "model"
    ):
        targets[provider, model].add(kind, bucket, count)
        providers[provider].add(kind, bucket, count)
    before = window.before.totals
    if before.is_stored:
        for kind, bucket, count in _buckets(connection, before, selected):
            earlier.add(kind, bucket, count)
    return _figures(window, now, earlier, steps, targets, providers)


def _buckets(connection: Connection, window: Window, selected: Selected, *by: str) -> Iterator[Any]:
    """Rows of what they are grouped by, the kind, the bucket and its requests."""
    groups = [group(target_latency, window, name) for name in (*by, "kind", "bucket")]
    query = (
        select(*groups, func.sum(target_latency.c.requests))
        .where(*within(target_latency, window), *selected.conditions(target_latency))
        .group_by(*(one.name for one in groups))
    )
    for *row, count in connection.execute(query):
        yield *row, int(count)


def _sampled(connection: Connection, window: Window, selected: Selected) -> LatencyFigures:
    """Of the newest requests in the log: the histograms have neither keys nor endpoints."""
    now, earlier = _Samples(), _Samples()
    steps = [_Samples() for _ in window.times]
    targets: defaultdict[tuple[str, str], _Samples] = defaultdict(_Samples)
    providers: defaultdict[str, _Samples] = defaultdict(_Samples)
    for at, provider, model, total, first_token in _logged(connection, window, selected):
        now.add(total, first_token)
        steps[window.index(int(at))].add(total, first_token)
        targets[provider or "", model or ""].add(total, first_token)
        providers[provider or ""].add(total, first_token)
    for *_, total, first_token in _logged(connection, window.before, selected):
        earlier.add(total, first_token)
    return replace(_figures(window, now, earlier, steps, targets, providers), sampled=now.requests)


def _logged(connection: Connection, window: Window, selected: Selected) -> Iterable[Any]:
    """The newest requests of a window that no limit refused, at most MAX_SAMPLED."""
    newest = connection.execute(select(func.max(requests.c.id))).scalar() or 0
    names = ("at", "provider", "model", "milliseconds", "first_token_milliseconds")
    query = (
        select(*(requests.c[name] for name in names))
        .where(
            requests.c.at >= window.first,
            requests.c.at < window.until,
            requests.c.refused_by.is_(None),
            # There is no index for several keys by id.
            requests.c.id > newest - MAX_ROWS_SCANNED,
            *selected.conditions(requests),
        )
        .order_by(requests.c.id.desc())
        .limit(MAX_SAMPLED)
    )
    return connection.execute(query)


_Timings = _Histograms | _Samples


def _figures(
    window: Window,
    now: _Timings,
    before: _Timings,
    steps: Sequence[_Timings],
    targets: Mapping[tuple[str, str], _Timings],
    providers: Mapping[str, _Timings],
) -> LatencyFigures:
    (total, first_token), (total_before, first_token_before) = now.latencies, before.latencies
    most_first = sorted(targets.items(), key=lambda entry: -entry[1].requests)
    return LatencyFigures(
        now=total,
        before=total_before,
        first_token=first_token,
        first_token_before=first_token_before,
        steps=[(at, *one.latencies) for at, one in zip(window.times, steps, strict=True)],
        targets=[(*target, one.requests, *one.latencies) for target, one in most_first],
        providers={name: one.latencies for name, one in providers.items()},
    )
