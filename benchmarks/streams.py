"""Opens many streams at once and says how long first bytes took and how many streams failed.

    python -m benchmarks.streams --port 8000 --count 500 --key KEY

A stream is good if it is a 200 with every piece of the upstream and ends in `data: [DONE]`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
import uuid
from typing import Any

from benchmarks.load import percentile
from benchmarks.processes import allow_many_files
from benchmarks.upstream import PIECES

PATIENCE = 60.0
PIECE = b'data: {"content": '
DONE = b"data: [DONE]"


class Stream(asyncio.Protocol):
    """One stream on a connection of its own, kept until the server closes it."""

    def __init__(self, request: bytes) -> None:
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.first_byte_at: float | None = None
        self._request = request
        self._received = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if self.first_byte_at is None:
            self.first_byte_at = time.perf_counter()
        self._received += data

    def connection_lost(self, error: Exception | None) -> None:
        if not self.over.done():
            self.over.set_result(None)

    @property
    def is_good(self) -> bool:
        head, _, body = bytes(self._received).partition(b"\r\n\r\n")
        lines = _without_transfer_coding(body).split(b"\n")
        pieces = sum(line.startswith(PIECE) for line in lines)
        said = [line for line in lines if line]
        return head[9:12] == b"200" and pieces == PIECES and said[-1:] == [DONE]


def _without_transfer_coding(body: bytes) -> bytes:
    content = bytearray()
    while body:
        size, _, rest = body.partition(b"\r\n")
        length = int(size or b"0", 16)
        content += rest[:length]
        body = rest[length + 2 :]
    return bytes(content)


def _request(port: int, key: str, run: str, number: int) -> bytes:
    body = json.dumps({"message": f"Stream {number} of {run}", "stream": True})
    head = [
        "POST /chat HTTP/1.1",
        f"Host: 127.0.0.1:{port}",
        f"X-API-Key: {key}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        "Connection: close",
    ]
    return "\r\n".join([*head, "", body]).encode()


async def _open(port: int, stream: Stream) -> None:
    try:
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: stream, "127.0.0.1", port)
        await asyncio.wait_for(stream.over, PATIENCE)
    except OSError:
        return  # it has nothing received, and so is not good; TimeoutError is one of these


async def open_streams(port: int, key: str, count: int) -> dict[str, float]:
    """First bytes (in ms, from the moment the first one was asked for), and failures."""
    run = uuid.uuid4().hex
    streams = [Stream(_request(port, key, run, number)) for number in range(count)]
    began = time.perf_counter()
    await asyncio.gather(*(_open(port, stream) for stream in streams))
    first = sorted((s.first_byte_at - began) * 1000 for s in streams if s.first_byte_at)
    return {
        "p50": percentile(first, 0.5),
        "p99": percentile(first, 0.99),
        "failed": sum(not stream.is_good for stream in streams),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--key", required=True)
    options = parser.parse_args()
    allow_many_files()
    print(json.dumps(asyncio.run(open_streams(options.port, options.key, options.count))))


if __name__ == "__main__":
    main()
