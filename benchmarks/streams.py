"""Many streams opened at once: `python -m benchmarks.streams URL NUMBER KEY` prints JSON."""

from __future__ import annotations

import asyncio
import json
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

from benchmarks.servers import ASKED_FROM, KEY, PinnedWeir, megabytes
from benchmarks.upstream import PIECES
from tests.support.servers import REPOSITORY

PATIENCE = 60.0


@dataclass(frozen=True)
class Streams:
    """First bytes in seconds, streams that did not come complete, the memory at the peak in MB."""

    p50: float
    p99: float
    failed: int
    megabytes: float


def open_at_once(server: PinnedWeir, number: int) -> Streams:
    """Open `number` streams together and watch the server's memory while they flow."""
    command = [sys.executable, "-m", "benchmarks.streams", server.url, str(number), KEY]
    client = subprocess.Popen(
        ["taskset", "-c", ASKED_FROM, *command], stdout=subprocess.PIPE, cwd=REPOSITORY
    )
    peak = 0.0
    while client.poll() is None:
        peak = max(peak, megabytes(server))
        time.sleep(0.5)
    assert client.stdout is not None
    seen = json.loads(client.stdout.read())
    return Streams(seen["p50"], seen["p99"], seen["failed"], peak)


async def _one(host: str, port: int, key: str, number: int) -> float | None:
    """Seconds to the first byte of a stream, None if it does not come complete."""
    body = json.dumps({"message": f"Stream {number} at {time.time()}", "stream": True}).encode()
    head = (
        f"POST /chat HTTP/1.1\r\nHost: {host}\r\nX-API-Key: {key}\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    began = time.perf_counter()
    try:
        async with asyncio.timeout(PATIENCE):
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(head.encode() + body)
            first = await reader.read(1)
            seconds = time.perf_counter() - began
            answer = first + await reader.read()
            writer.close()
    except (OSError, TimeoutError):
        return None
    complete = answer.count(b'{"content": ') == PIECES and b"data: [DONE]" in answer
    return seconds if complete and answer.startswith(b"HTTP/1.1 200") else None


async def _all(url: str, number: int, key: str) -> dict[str, float]:
    address = urlsplit(url)
    assert address.hostname is not None
    assert address.port is not None
    seen = await asyncio.gather(
        *(_one(address.hostname, address.port, key, each) for each in range(number))
    )
    good = sorted(seconds for seconds in seen if seconds is not None) or [float("nan")]
    return {
        "p50": good[len(good) // 2],
        "p99": good[int(len(good) * 0.99)],
        "failed": number - sum(seconds is not None for seconds in seen),
    }


if __name__ == "__main__":
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    print(json.dumps(asyncio.run(_all(sys.argv[1], int(sys.argv[2]), sys.argv[3]))))
