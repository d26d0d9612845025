"""The latencies of a time range: percentiles, by step and by target."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection, func, select

from webapp.metering.counters import within
from webapp.metering.ranges import Range, Window
from webapp.metering.request_log import MAX_ROWS_SCANNED, requests
from webapp.metering.selected import Selected
from webapp.metering.target_latency import (
    FIRST_TOKEN,
    TOTAL,
    Latencies,
    bucket_of,
    latencies_of,
    target_latency,
)

MAX_SAMPLED = 10_000


@dataclass(frozen=True, slots=True)
class LatencyFigures:
    """Until the end of requests, and until the first token of streams.

    `steps` are (Unix seconds, total, first token), `targets` (provider, model, requests, total,
    first token), those with most requests first. `sampled` says from how many requests of the log
    they are; None where all were counted.
    """

    now: Latencies
    first_token: Latencies
    before: Latencies
    first_token_before: Latencies
    steps: list[tuple[int, Latencies, Latencies]]
    targets: list[tuple[str, str, int, Latencies, Latencies]]
    sampled: int | None = None


class _Histograms:
    """Requests by bucket, of both kinds."""

    def __init__(self) -> None:
        self._kinds = {TOTAL: Counter[int](), FIRST_TOKEN: Counter[int]()}

    def add(self, kind: str, bucket: int, requests: int) -> None:
        self._kinds[kind][bucket] += requests

    def update(self, other: _Histograms) -> None:
        for kind, buckets in other._kinds.items():
            self._kinds[kind].update(buckets)

    @property
    def requests(self) -> int:
        return self._kinds[TOTAL].total()

    @property
    def latencies(self) -> tuple[Latencies, Latencies]:
        return latencies_of(self._kinds[TOTAL]), latencies_of(self._kinds[FIRST_TOKEN])


class _Groups(defaultdict[tuple[Any, ...], _Histograms]):
    """Histograms by what they are grouped by."""

    def __init__(self) -> None:
        super().__init__(_Histograms)


def read_latencies(connection: Connection, range_: Range, selected: Selected) -> LatencyFigures:
    window = range_.window
    if selected.key_ids is not None or selected.endpoint is not None:
        return _sampled(connection, window, selected)
    before = window.before.totals
    by_step = _read(connection, window, selected, "start")
    by_target = _read(connection, window, selected, "provider", "model")
    earlier = _read(connection, before, selected) if before.is_stored else _Groups()
    return _figures(window, by_step, by_target, earlier)


def _figures(
    window: Window, by_start: _Groups, by_target: _Groups, before: _Groups
) -> LatencyFigures:
    now, first_token = _merged(by_start.values()).latencies
    steps: defaultdict[int, list[_Histograms]] = defaultdict(list)
    for (start,), one in by_start.items():
        steps[window.index(start)].append(one)
    targets = sorted(by_target.items(), key=lambda entry: -entry[1].requests)
    return LatencyFigures(
        now,
        first_token,
        *_merged(before.values()).latencies,
        [(at, *_merged(steps[index]).latencies) for index, at in enumerate(window.times)],
        [(*target, one.requests, *one.latencies) for target, one in targets],
    )


def _merged(parts: Iterable[_Histograms]) -> _Histograms:
    merged = _Histograms()
    for part in parts:
        merged.update(part)
    return merged


def _read(connection: Connection, window: Window, selected: Selected, *by: str) -> _Groups:
    groups = [target_latency.c[name] for name in (*by, "kind", "bucket")]
    query = (
        select(*groups, func.sum(target_latency.c.requests))
        .where(*within(target_latency, window), *selected.conditions(target_latency))
        .group_by(*groups)
    )
    found = _Groups()
    for *group, kind, bucket, count in connection.execute(query):
        found[tuple(group)].add(kind, bucket, int(count))
    return found


def _sampled(connection: Connection, window: Window, selected: Selected) -> LatencyFigures:
    """Of the newest requests in the log: the histograms have neither keys nor endpoints."""
    by_start, by_target, before = _Groups(), _Groups(), _Groups()
    rows = _logged(connection, window, selected)
    for row in rows:
        _add(by_start[(int(row.at),)], row)
        _add(by_target[row.provider or "", row.model or ""], row)
    for row in _logged(connection, window.before, selected):
        _add(before[()], row)
    return replace(_figures(window, by_start, by_target, before), sampled=len(rows))


def _add(histograms: _Histograms, row: Any) -> None:
    histograms.add(TOTAL, bucket_of(row.milliseconds), 1)
    if row.first_token_milliseconds is not None:
        histograms.add(FIRST_TOKEN, bucket_of(row.first_token_milliseconds), 1)


def _logged(connection: Connection, window: Window, selected: Selected) -> Sequence[Any]:
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
    return connection.execute(query).all()
