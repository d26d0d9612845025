"""`make bench`: speed, memory and start-up of the real server, beside what is to be reached."""

from __future__ import annotations

import argparse
import os
import platform
import resource
import statistics
import time
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import load
from benchmarks.servers import ENVIRONMENT, KEY, BareFlask, PinnedWeir, Upstream, megabytes
from benchmarks.streams import open_at_once
from tests.support.servers import Valkey

STARTS = 5


def row(what: str, figures: str, target: str = "", reached: bool | None = None) -> None:
    verdict = {None: "", True: "reached", False: "**missed**"}[reached]
    print(f"| {what} | {figures} | {target} | {verdict} |", flush=True)


def measure(seconds: int) -> None:
    """Run everything and print one table."""
    print(f"{processor()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
          f"{datetime.now(UTC):%Y-%m-%d}; the server on one core, one worker.\n")  # fmt: skip
    print("| measure | figures | to reach | |\n|---|---|---|---|")
    with Valkey().start() as valkey, Upstream().start() as upstream:
        environment = ENVIRONMENT | {
            "REDIS_URL": valkey.url,
            "OPENAI_BASE_URL": upstream.base_url,
        }
        start_up(environment)
        with BareFlask().start() as bare:
            yardstick = load.get(bare.url, seconds).rate
        row("bare Flask route", f"{yardstick:,.0f} requests/s")
        with PinnedWeir(environment).start() as weir:
            requests(weir, seconds, yardstick)
        with PinnedWeir(environment).start() as weir:
            many_streams(weir)


def start_up(environment: dict[str, object]) -> None:
    times, weir = [], PinnedWeir(environment)
    try:
        for _ in range(1 + STARTS):
            began = time.perf_counter()
            weir.start()
            times.append(time.perf_counter() - began)
            memory = megabytes(weir)
            weir.stop()
    finally:
        weir.close()
    first, later = times[0], statistics.median(times[1:])
    row("start to the first 200 on /readiness", f"{later:.2f} s (very first: {first:.2f} s)",
        "2 s", max(first, later) <= 2)  # fmt: skip
    row("memory after start (PSS, master and worker)", f"{memory:.0f} MB", "110 MB", memory <= 110)


def requests(weir: PinnedWeir, seconds: int, yardstick: float) -> None:
    weir.post("/chat", key=KEY, json={"message": "Hi"}).raise_for_status()
    hits = load.post(weir.url, seconds, unique=False)
    needed = max(1200, yardstick / 4)
    row("cache hit on Redis", figures(hits), f"1,200/s and {yardstick / 4:,.0f}/s (a quarter)",
        hits.rate >= needed and not hits.failed)  # fmt: skip
    calls = load.post(weir.url, seconds, unique=True, first=time.time_ns() // 1000)
    row("uncached call", figures(calls), "450/s", calls.rate >= 450 and not calls.failed)
    row("memory after this load", f"{megabytes(weir):.0f} MB")


def figures(result: load.Load) -> str:
    failed = f", {result.failed} failed" if result.failed else ""
    times = f"p50 {result.p50:.1f} ms, p99 {result.p99:.1f} ms"
    return f"{result.rate:,.0f} requests/s, {times}{failed}"


def many_streams(weir: PinnedWeir) -> None:
    for number in (500, 1000):
        seen = open_at_once(weir, number)
        figures = (
            f"first byte p50 {seen.p50:.2f} s, p99 {seen.p99:.2f} s, {seen.failed} failed, "
            f"{seen.megabytes:.0f} MB"
        )
        reached = seen.failed == 0 and seen.megabytes <= 180
        row(f"{number:,} streams at once", figures, "none failed, 180 MB", reached)


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("--seconds", type=int, default=10, help="of each load (default 10)")
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    measure(parser.parse_args().seconds)
