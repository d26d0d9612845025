"""One request on its own connection, and the response until the server closes it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import Any

TIMEOUT = 60.0  # seconds


class Exchange(asyncio.Protocol):
    """Times are those of `time.perf_counter`; None if the event did not happen."""

    def __init__(self, content: bytes) -> None:
        self.first_byte_at: float | None = None
        self.over_at: float | None = None
        self._content = content
        self._received = bytearray()
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self, port: int) -> None:
        """Send the request, and wait for the end. After an error, a part may have been received."""
        transport = None
        try:
            loop = asyncio.get_running_loop()
            transport, _ = await loop.create_connection(lambda: self, "127.0.0.1", port)
            await asyncio.wait_for(self._over, TIMEOUT)
        except OSError:  # TimeoutError is one of these
            if transport is not None:
                transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        writer: Any = transport
        writer.write(self._content)

    def data_received(self, data: bytes) -> None:
        if self.first_byte_at is None:
            self.first_byte_at = time.perf_counter()
        self._received += data

    def connection_lost(self, error: Exception | None) -> None:
        self.over_at = time.perf_counter()
        if not self._over.done():
            self._over.set_result(None)

    @property
    def status(self) -> int:
        """The HTTP status; 0 without a response."""
        return int(self._received[9:12] or 0)

    @property
    def body(self) -> bytes:
        head, _, body = bytes(self._received).partition(b"\r\n\r\n")
        is_chunked = b"\r\ntransfer-encoding: chunked" in head.lower()
        return _without_transfer_coding(body) if is_chunked else body


def _without_transfer_coding(body: bytes) -> bytes:
    content = bytearray()
    while body:
        size, _, rest = body.partition(b"\r\n")
        length = int(size or b"0", 16)
        content += rest[:length]
        body = rest[length + 2 :]
    return bytes(content)


async def all_at_once(port: int, exchanges: Iterable[Exchange]) -> float:
    """Run the exchanges concurrently. Returns the time when the first one was sent."""
    started = time.perf_counter()
    await asyncio.gather(*(exchange.run(port) for exchange in exchanges))
    return started
