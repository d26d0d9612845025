"""Opens many streams at once and measures the time to the first byte and the failures.

    python -m benchmarks.streams --count 500 --protocol openai < request.json

The request is a JSON object with the fields of Request.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass

from benchmarks.answers import Protocol
from benchmarks.exchange import Exchange, all_at_once
from benchmarks.load import percentile
from benchmarks.processes import Server, allow_many_files
from benchmarks.request import Request

MEMORY_INTERVAL = 0.2  # seconds


@dataclass(frozen=True, slots=True)
class Streams:
    """Time to the first byte (ms since the first request was sent), and failures."""

    p50: float
    p99: float
    failed: int


async def open_streams(request: Request, protocol: Protocol, count: int) -> Streams:
    exchanges = [Exchange(request.content(number, last=True)) for number in range(count)]
    began = await all_at_once(request.port, exchanges)
    first = sorted((e.first_byte_at - began) * 1000 for e in exchanges if e.first_byte_at)
    return Streams(
        p50=percentile(first, 0.5),
        p99=percentile(first, 0.99),
        failed=sum(not protocol.is_good_stream(exchange) for exchange in exchanges),
    )


def streams_of(
    server: Server, request: Request, protocol: Protocol, count: int
) -> tuple[Streams, int]:
    """The result of the streams, run in their own process, and the peak of the server's memory."""
    options = ["--count", str(count), "--protocol", protocol]
    command = [sys.executable, "-m", "benchmarks.streams", *options]
    peak, pipe = 0, subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        with client.stdin:
            json.dump(asdict(request), client.stdin)
        while client.poll() is None:
            peak = max(peak, server.memory())
            time.sleep(MEMORY_INTERVAL)
        return Streams(**json.loads(client.stdout.read())), peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--protocol", type=Protocol, choices=list(Protocol), required=True)
    options = parser.parse_args()
    allow_many_files()
    request = Request(**json.load(sys.stdin))
    print(json.dumps(asdict(asyncio.run(open_streams(request, options.protocol, options.count)))))


if __name__ == "__main__":
    main()
