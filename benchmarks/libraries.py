"""What libraries cost on hot paths: Flask-Limiter's decorators, the openai SDK, redis-py's pool,
Gunicorn's parser.

hot_paths.py measures each of them, in turns with whole requests of a Weir on the same core.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from benchmarks.processes import REPOSITORY, SERVER_CORES, Server
from benchmarks.run import Run
from benchmarks.table import Figure, microseconds, number, percent, times

DECORATORS = {
    "decorator": "Flask-Limiter's decorator on the same strategy",
    "stock decorator": "Flask-Limiter's decorator on its own storage",
}

Costs = dict[str, float]


def libraries(run: Run) -> list[Figure]:
    """CPU time of each library, and of what Weir does instead."""
    with run.weir() as weir:
        measured = _hot_paths(run, weir)
    return [
        *(figure for name, cost in measured["limits"].items() for figure in _limits(name, cost)),
        *_provider_clients(measured["provider"]),
        *_http_parser(measured["parser"]),
        *_redis_clients(measured["redis"]),
    ]


def _limits(name: str, cost: Costs) -> list[Figure]:
    figures = [
        Figure(f"a cache hit, CPU in turns with {name}", cost["request"], microseconds),
        Figure(f"{name}, Weir's one script", cost["script"], microseconds),
    ]
    for kind, title in DECORATORS.items():
        added = (cost[kind] - cost["script"]) / cost["request"]
        figures += [
            Figure(f"{name}, {title}", cost[kind], microseconds),
            Figure(f"{name}, {title}: adds to a hit", added, percent),
        ]
    return figures


def _provider_clients(cost: Costs) -> list[Figure]:
    added = (cost["SDK"] - cost["client"]) / cost["request"]
    return [
        Figure("an uncached call, CPU", cost["request"], microseconds),
        Figure("asking the provider, Weir's client", cost["client"], microseconds),
        Figure("asking the provider, openai SDK", cost["SDK"], microseconds),
        Figure("asking the provider, openai SDK: adds to a call", added, percent),
    ]


def _http_parser(cost: Costs) -> list[Figure]:
    return [
        Figure("Gunicorn's parser in Python", cost["parser"], microseconds),
        Figure("Gunicorn's parser: share of a hit", cost["parser"] / cost["request"], percent),
    ]


def _redis_clients(cost: Costs) -> list[Figure]:
    return [
        Figure("GET by 50 greenlets, Weir's one connection", cost["shared"], microseconds),
        Figure("GET by 50 greenlets, redis-py's pool", cost["pool"], microseconds),
        Figure("GET by 50 greenlets, pool / Weir", cost["pool"] / cost["shared"], times),
        Figure("connections of the pool", cost["connections"], number),
    ]


def _hot_paths(run: Run, weir: Server) -> dict[str, Any]:
    command = [
        *(sys.executable, "-m", "benchmarks.hot_paths", "--weir", str(weir.port), str(weir.pid)),
        *("--redis", f"redis://127.0.0.1:{run.valkey.port}/1"),
        *("--upstream", f"http://127.0.0.1:{run.upstream.port}/v1"),
        *("--seconds", str(run.seconds)),
    ]
    done = subprocess.run(
        command,
        cwd=REPOSITORY,
        check=True,
        stdout=subprocess.PIPE,
        preexec_fn=lambda: os.sched_setaffinity(0, SERVER_CORES),
    )
    return json.loads(done.stdout)
