"""Weir alone: start, cache hits, uncached calls and streams, compared with a bare Flask route."""

from __future__ import annotations

import statistics
import uuid

from benchmarks.answers import Protocol
from benchmarks.load import Load, put_load
from benchmarks.processes import MEBIBYTE, Server
from benchmarks.request import NUMBER, Request, post
from benchmarks.run import QUESTION, Run, warm_up
from benchmarks.streams import streams_of
from benchmarks.table import Figure, megabytes, microseconds, milliseconds, number, percent, seconds
from benchmarks.upstream import CHUNKS
from benchmarks.workplace import KEY

STARTS = 5
STREAMS = (500, 1000)
FEW = (1, 4)


def bare(run: Run) -> list[Figure]:
    """The bare Flask route: the upper bound for the server."""
    with run.place.bare() as server:
        load = run.load(Request(server.port, "GET", "/"))
    run.bare_per_second = load.per_second
    return _figures("bare Flask route", load)


def start(run: Run) -> list[Figure]:
    """The time until it is ready, and its memory then."""
    with run.weir(data="fresh") as weir:
        first = weir.ready_after
    ready, memory = [], []
    for _ in range(STARTS):
        with run.weir(data="fresh") as weir:
            ready.append(weir.ready_after)
            memory.append(weir.memory())
    return [
        Figure("ready after, the very first start", first, seconds),
        Figure("ready after, median of 5 starts", statistics.median(ready), seconds, most=1),
        _memory("memory after start", statistics.median(memory), most=85),
    ]


def hits(run: Run) -> list[Figure]:
    """Cache hits on Redis."""
    with run.weir() as weir:
        load = run.load(_chat(weir, QUESTION + uuid.uuid4().hex))
        after = weir.memory()
    figures = _figures("cache hit", load, least=1200)
    if run.bare_per_second:
        share = load.per_second / run.bare_per_second
        figures.append(Figure("cache hit, share of the bare route", share, percent, least=0.4))
    return [*figures, _memory("memory after the hits", after)]


def uncached(run: Run) -> list[Figure]:
    """Calls that reach the upstream, and whose answers are stored."""
    with run.weir() as weir:
        load = run.load(lambda: _chat(weir, QUESTION + uuid.uuid4().hex + NUMBER))
        after = weir.memory()
    figures = _figures("uncached call", load, least=450)
    return [*figures, _memory("memory after the uncached calls", after)]


def few_connections(run: Run) -> list[Figure]:
    """How much of an uncached call's time is CPU time where few calls share their work."""
    with run.weir() as weir:
        return [figure for count in FEW for figure in _few(run, weir, count)]


def _few(run: Run, weir: Server, connections: int) -> list[Figure]:
    request = _chat(weir, QUESTION + uuid.uuid4().hex + NUMBER)
    warm_up(lambda: request, connections)
    before = weir.cpu_seconds()
    load = put_load(request, run.seconds, connections)
    cpu = (weir.cpu_seconds() - before) / load.answered * 1e6
    name = f"uncached call, {connections} connection{'s' if connections > 1 else ''}"
    return [
        Figure(f"{name}, mean time between answers", 1e6 / load.per_second, microseconds),
        Figure(f"{name}, CPU", cpu, microseconds),
    ]


def streams(run: Run) -> list[Figure]:
    """Many streams opened at once."""
    return [figure for count in STREAMS for figure in _streams(run, count)]


def _streams(run: Run, count: int) -> list[Figure]:
    with run.weir() as weir:
        streams_of(weir, _stream(weir), Protocol.NATIVE, 1)
        before = weir.cpu_seconds()
        opened, peak = streams_of(weir, _stream(weir), Protocol.NATIVE, count)
        # With its share of what opening and ending its stream takes.
        chunk = (weir.cpu_seconds() - before) / count / CHUNKS * 1e6
    name, has_targets = f"{count:,} streams", count == max(STREAMS)
    return [
        Figure(
            f"{name}, first byte p50", opened.p50, milliseconds, most=700 if has_targets else None
        ),
        Figure(f"{name}, first byte p99", opened.p99, milliseconds),
        Figure(f"{name}, failures", opened.failed, number, most=0),
        Figure(f"{name}, CPU of a chunk", chunk, microseconds, most=150 if has_targets else None),
        _memory(f"{name}, peak memory", peak, most=130 if has_targets else None),
    ]


def _chat(weir: Server, message: str, **fields: bool) -> Request:
    return post(weir.port, "/chat", {"X-API-Key": KEY}, {"message": message, **fields})


def _stream(weir: Server) -> Request:
    return _chat(weir, f"Stream {NUMBER} of {uuid.uuid4().hex}", stream=True)


def _figures(name: str, load: Load, least: float | None = None) -> list[Figure]:
    return [
        Figure(f"{name}, requests/s", load.per_second, number, least=least),
        Figure(f"{name}, p50", load.p50, milliseconds),
        Figure(f"{name}, p99", load.p99, milliseconds),
        Figure(f"{name}, failures", load.failed, number, most=0),
    ]


def _memory(name: str, size: float, most: float | None = None) -> Figure:
    return Figure(name, size, megabytes, most=most and most * MEBIBYTE)
