"""Measures the real server with all its features on, one worker on its own core.

    python -m benchmarks [--seconds 10] [--only NAME | --base COMMIT]

Prints Markdown: a table that compares the gateways, and a table of figures. A figure that misses
its target is marked `miss`; the exit code stays 0.
"""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Callable
from datetime import UTC, datetime

from benchmarks import alone
from benchmarks.batches import batches
from benchmarks.commits import commits
from benchmarks.comparison import peers
from benchmarks.files import files
from benchmarks.flights import flights
from benchmarks.footprint import footprint
from benchmarks.inference import inference
from benchmarks.libraries import libraries
from benchmarks.load import CONNECTIONS, TOOL
from benchmarks.logs import logs
from benchmarks.messages import messages
from benchmarks.processes import CORES, OTHER_CORES, allow_many_files, get_json
from benchmarks.reports import reports
from benchmarks.run import Run, tell
from benchmarks.table import Figure, markdown
from benchmarks.watching import watching
from benchmarks.workers import workers
from benchmarks.workplace import Workplace

MEASURES: dict[str, Callable[[Run], list[Figure]]] = {
    "bare": alone.bare,
    "start": alone.start,
    "hits": alone.hits,
    "uncached": alone.uncached,
    "few_connections": alone.few_connections,
    "streams": alone.streams,
    "messages": messages,
    "flights": flights,
    "workers": workers,
    "batches": batches,
    "peers": peers,
    "inference": inference,
    "logs": logs,
    "watching": watching,
    "libraries": libraries,
    "files": files,
    "reports": reports,
    "footprint": footprint,
}
# These take minutes, or measure no speed, and run only with --only.
ONLY_WHEN_NAMED = {"batches", "reports", "footprint"}


def machine() -> str:
    cores = "the others" if OTHER_CORES.isdisjoint(CORES[:1]) else "the same one"
    return (
        f"{len(CORES)} CPUs, Python {platform.python_version()}, {datetime.now(UTC):%Y-%m-%d}; "
        f"one worker on one core, all else on {cores}; load by {TOOL}, {CONNECTIONS} connections."
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--seconds", type=float, default=10, help="of each load (default 10)")
    parser.add_argument("--only", choices=MEASURES, metavar="NAME", help=", ".join(MEASURES))
    parser.add_argument("--base", metavar="COMMIT", help="compare with this commit, and no more")
    options = parser.parse_args()
    allow_many_files()
    os.sched_setaffinity(0, OTHER_CORES)
    figures: list[Figure] = []
    with Workplace() as place, place.valkey() as valkey, place.upstream() as upstream:
        run = Run(place, valkey, upstream, options.seconds)
        usual = [name for name in MEASURES if name not in ONLY_WHEN_NAMED]
        if options.base:
            figures += commits(run, options.base)
            usual = []
        for name in [options.only] if options.only else usual:
            tell(f"Measuring: {name}")
            figures += MEASURES[name](run)
        calls = get_json(upstream.port, "/calls")
    ending = f"{machine()} The upstream received {calls:,} requests."
    print("\n\n".join([*run.tables, markdown(figures), ending]))


if __name__ == "__main__":
    main()
