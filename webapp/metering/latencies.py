"""The latencies of a time range: percentiles, by step and by target."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection, func, select

from webapp.metering.histogram import Latencies, latencies_among, latencies_of, requests_of
from webapp.metering.ranges import Range, Window
from webapp.metering.request_log import requests
from webapp.metering.request_search import MAX_ROWS_SCANNED
from webapp.metering.selected import Selected
from webapp.metering.target_latency import ALL_TARGETS, Timings, read_timings, target_latency
from webapp.storage.database import IN_BINARY

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


class _Histograms(Timings):
    """Requests by bucket, of both kinds."""

    @property
    def requests(self) -> int:
        return requests_of(self.total)

    @property
    def latencies(self) -> tuple[Latencies, Latencies]:
        return latencies_of(self.total), latencies_of(self.first_token)


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
    for at, provider, model, timings in _stored(connection, window, selected):
        is_of_all = provider == ALL_TARGETS
        if not is_of_all:
            targets[provider, model].add(timings)
        if is_of_all != selected.by_target:
            steps[window.index(at)].add(timings)
    for timings in steps:
        now.add(timings)
    for (provider, _), timings in targets.items():
        providers[provider].add(timings)
    before = window.before.totals
    if before.is_stored:
        total = selected if selected.by_target else replace(selected, provider=ALL_TARGETS)
        for *_, timings in _stored(connection, before, total):
            earlier.add(timings)
    return _figures(window, now, earlier, steps, targets, providers)


def _stored(
    connection: Connection, window: Window, selected: Selected
) -> Iterator[tuple[int, str, str, Timings]]:
    """(Start, provider, model, histograms) of a window."""
    names = ("start", "provider", "model", "total", "first_token")
    query = (
        select(*(target_latency.c[name] for name in names))
        .where(
            target_latency.c.span == window.span,
            # One by one, so that the primary key leads to the rows of one target.
            target_latency.c.start.in_(window.spans),
            *selected.conditions(target_latency),
        )
        .execution_options(**IN_BINARY)
    )
    for at, provider, model, total, first_token in connection.execute(query):
        yield at, provider, model, read_timings(total, first_token)


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
