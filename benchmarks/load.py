"""Load: as many requests as a server answers in some seconds, sent by wrk or an asyncio client."""

from __future__ import annotations

import asyncio
import itertools
import json
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.request import NUMBER, Request

CONNECTIONS = 32
TOOL = "wrk" if shutil.which("wrk") else "an asyncio client"

LUA = """
wrk.method = %(method)s
wrk.body = %(body)s
%(headers)s
local number = 0
if wrk.body and string.find(wrk.body, "%(number)s", 1, true) then
  local before, after = string.match(wrk.body, "^(.*)%(number)s(.*)$")
  request = function()
    number = number + 1
    return wrk.format(nil, nil, nil, before .. number .. after)
  end
end
done = function(summary, latency)
  local errors = summary.errors
  local broken = errors.connect + errors.read + errors.write + errors.timeout
  io.write(string.format(
    '\\n{"answered": %%d, "seconds": %%f, "p50": %%f, "p99": %%f, "failed": %%d}\\n',
    summary.requests - errors.status, summary.duration / 1e6,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, errors.status + broken))
end
"""


@dataclass(frozen=True, slots=True)
class Load:
    """The result: successful responses (status below 400), duration, latencies in ms, failures."""

    answered: int
    seconds: float
    p50: float
    p99: float
    failed: int

    @property
    def per_second(self) -> float:
        return self.answered / self.seconds


def put_load(request: Request, seconds: float, connections: int = CONNECTIONS) -> Load:
    """Send the request on several connections at once, each again as soon as it is answered."""
    if TOOL == "wrk":
        return _with_wrk(request, seconds, connections)
    return asyncio.run(_without(request, seconds, connections))


# -- with wrk --


def _with_wrk(request: Request, seconds: float, connections: int) -> Load:
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder, "load.lua")
        script.write_text(_lua(request))
        command = [
            *("wrk", "--threads", "1", "--connections", str(connections), "--timeout", "10s"),
            *("--duration", f"{max(1, round(seconds))}s", "--script", str(script)),
            f"http://127.0.0.1:{request.port}{request.path}",
        ]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return Load(**json.loads(output.strip().splitlines()[-1]))


def _lua(request: Request) -> str:
    return LUA % {
        "method": _quoted(request.method),
        "body": _quoted(request.body) if request.body else "nil",
        "headers": "\n".join(
            f"wrk.headers[{_quoted(name)}] = {_quoted(value)}"
            for name, value in request.headers.items()
        ),
        "number": NUMBER,
    }


def _quoted(text: str) -> str:
    """A Lua string. JSON strings are valid in Lua if they are ASCII without control characters."""
    return json.dumps(text)


# -- without --


async def _without(request: Request, seconds: float, connections: int) -> Load:
    loop = asyncio.get_running_loop()
    numbers = itertools.count(1)
    began = time.perf_counter()
    clients = [Client(request, numbers, began + seconds) for _ in range(connections)]
    for client in clients:
        await loop.create_connection(lambda client=client: client, "127.0.0.1", request.port)
    await asyncio.gather(*(client.over for client in clients))
    latencies = sorted(itertools.chain.from_iterable(client.latencies for client in clients))
    return Load(
        answered=len(latencies),
        seconds=time.perf_counter() - began,
        p50=percentile(latencies, 0.5),
        p99=percentile(latencies, 0.99),
        failed=sum(client.failed for client in clients),
    )


class Client(asyncio.Protocol):
    """One connection that sends its next request when the last one is answered."""

    def __init__(self, request: Request, numbers: itertools.count[int], until: float) -> None:
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.latencies: list[float] = []
        self.failed = 0
        self._request = request
        self._content = None if request.is_unique else request.content(0)
        self._numbers = numbers
        self._until = until
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        self._send()

    def _send(self) -> None:
        self._transport.write(self._content or self._request.content(next(self._numbers)))
        self._sent = time.perf_counter()

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, separator, rest = self._received.partition(b"\r\n\r\n")
        if not separator or len(rest) < _content_length(head):
            return
        now = time.perf_counter()
        if head[9:10] in b"123":
            self.latencies.append((now - self._sent) * 1000)
        else:
            self.failed += 1
        self._received = b""
        if now < self._until:
            self._send()
        else:
            self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        self.failed += time.perf_counter() < self._until
        if not self.over.done():
            self.over.set_result(None)


def _content_length(head: bytes) -> int:
    _, name, rest = head.lower().partition(b"\r\ncontent-length:")
    return int(rest.partition(b"\r\n")[0]) if name else 0


def percentile(ordered: list[float], share: float) -> float:
    """The percentile for a share (0..1) of the ordered values; 0 if there are none."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0
