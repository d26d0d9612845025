"""Measures the real server with all its gates on, one worker on a core of its own.

    python -m benchmarks [--seconds 10] [--only NAME]

Prints one Markdown table. A figure that misses its target is said so, and changes no exit code.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime

from benchmarks.load import CONNECTIONS, NUMBER, TOOL, Load, Request, put_load
from benchmarks.processes import (
    CORES,
    KEY,
    MEBIBYTE,
    OTHER_CORES,
    Server,
    Workplace,
    allow_many_files,
    get_json,
)
from benchmarks.table import Figure, markdown, megabytes, milliseconds, number, percent, seconds

WARM_UP = 2.0
STARTS = 5
STREAMS = (500, 1000)
MEMORY_EVERY = 0.2
QUESTION = "What is a weir, and why would anyone build one across a river? Answer in a paragraph. "


class Run:
    """One run: the servers beside Weir, and the measures, each on a server just started."""

    def __init__(self, place: Workplace, valkey: Server, upstream: Server, duration: float) -> None:
        self._place = place
        self._valkey = valkey
        self._upstream = upstream
        self._duration = duration
        self._bare_per_second = 0.0

    def bare(self) -> list[Figure]:
        """The bare Flask route: what the server could do at most."""
        with self._place.bare() as server:
            load = self._load(Request(server.port, "GET", "/"))
        self._bare_per_second = load.per_second
        return _figures("bare Flask route", load)

    def start(self) -> list[Figure]:
        """How long it takes to be ready, and how much memory it has then."""
        with self._weir(data="fresh") as weir:
            first = weir.ready_after
        ready, memory = [], []
        for _ in range(STARTS):
            with self._weir(data="fresh") as weir:
                ready.append(weir.ready_after)
                memory.append(weir.memory())
        return [
            Figure("ready after, the very first start", first, seconds),
            Figure("ready after, median of 5 starts", statistics.median(ready), seconds, most=2),
            _memory("memory after start", statistics.median(memory), most=110),
        ]

    def hits(self) -> list[Figure]:
        """Cache hits on Redis."""
        with self._weir() as weir:
            load = self._load(_chat(weir, QUESTION + uuid.uuid4().hex))
            after = weir.memory()
        figures = _figures("cache hit", load, least=1200)
        if self._bare_per_second:
            share = load.per_second / self._bare_per_second
            figures.append(Figure("cache hit, share of the bare route", share, percent, least=0.25))
        return [*figures, _memory("memory after the hits", after)]

    def uncached(self) -> list[Figure]:
        """Calls that reach the upstream, and are stored."""
        with self._weir() as weir:
            load = self._load(lambda: _chat(weir, QUESTION + uuid.uuid4().hex + NUMBER))
            after = weir.memory()
        figures = _figures("uncached call", load, least=450)
        return [*figures, _memory("memory after the uncached calls", after)]

    def streams(self) -> list[Figure]:
        """Many streams opened at once."""
        return [figure for count in STREAMS for figure in self._streams(count)]

    def _streams(self, count: int) -> list[Figure]:
        with self._weir() as weir:
            _open_streams(weir, 1)
            result, peak = _open_streams(weir, count)
        name, most = f"{count:,} streams", 0 if count == max(STREAMS) else None
        return [
            Figure(f"{name}, first byte p50", result["p50"], milliseconds),
            Figure(f"{name}, first byte p99", result["p99"], milliseconds),
            Figure(f"{name}, failures", result["failed"], number, most=most),
            _memory(f"{name}, peak memory", peak, most=180 if most is not None else None),
        ]

    def _weir(self, data: str = "data") -> Server:
        return self._place.weir(self._valkey, self._upstream, data)

    def _load(self, request: Request | Callable[[], Request]) -> Load:
        """The load after a warm-up; a request to be made anew for each is a callable."""
        make = request if callable(request) else lambda: request
        put_load(make(), WARM_UP)
        return put_load(make(), self._duration)


def _chat(weir: Server, message: str) -> Request:
    headers = {"Content-Type": "application/json", "X-API-Key": KEY}
    return Request(weir.port, "POST", "/chat", headers, json.dumps({"message": message}))


def _open_streams(weir: Server, count: int) -> tuple[dict[str, float], int]:
    """What the streams say, from a process of their own, and the peak of Weir's memory."""
    options = ["--port", str(weir.port), "--count", str(count), "--key", KEY]
    command = [sys.executable, "-m", "benchmarks.streams", *options]
    peak = 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as client:
        while client.poll() is None:
            peak = max(peak, weir.memory())
            time.sleep(MEMORY_EVERY)
        assert client.stdout is not None
        return json.loads(client.stdout.read()), peak


def _figures(name: str, load: Load, least: float | None = None) -> list[Figure]:
    return [
        Figure(f"{name}, requests/s", load.per_second, number, least=least),
        Figure(f"{name}, p50", load.p50, milliseconds),
        Figure(f"{name}, p99", load.p99, milliseconds),
        Figure(f"{name}, failures", load.failed, number, most=0),
    ]


def _memory(name: str, size: float, most: float | None = None) -> Figure:
    return Figure(name, size, megabytes, most=most and most * MEBIBYTE)


def machine() -> str:
    beside = "the others" if OTHER_CORES.isdisjoint(CORES[:1]) else "the same one"
    return (
        f"{len(CORES)} CPUs, Python {platform.python_version()}, {datetime.now(UTC):%Y-%m-%d}; "
        f"one worker on one core, all else on {beside}; load by {TOOL}, {CONNECTIONS} connections."
    )


def main() -> None:
    measures = {
        "bare": Run.bare,
        "start": Run.start,
        "hits": Run.hits,
        "uncached": Run.uncached,
        "streams": Run.streams,
    }
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--seconds", type=float, default=10, help="of each load (default 10)")
    parser.add_argument("--only", choices=measures, metavar="NAME", help=", ".join(measures))
    options = parser.parse_args()
    allow_many_files()
    os.sched_setaffinity(0, OTHER_CORES)
    figures: list[Figure] = []
    with Workplace() as place, place.valkey() as valkey, place.upstream() as upstream:
        run = Run(place, valkey, upstream, options.seconds)
        for name in [options.only] if options.only else measures:
            print(f"Measuring: {name}", file=sys.stderr)
            figures += measures[name](run)
        calls = get_json(upstream.port, "/calls")
    print(f"{markdown(figures)}\n\n{machine()} The upstream was asked {calls:,} times.")


if __name__ == "__main__":
    main()
