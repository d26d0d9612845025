"""Load: as many requests as a server answers in some seconds, by wrk or else by an own client."""

from __future__ import annotations

import asyncio
import itertools
import json
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CONNECTIONS = 32
TOOL = "wrk" if shutil.which("wrk") else "an asyncio client"
# Where a body must differ from request to request, this becomes the request's number.
NUMBER = "#NUMBER#"

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
class Request:
    """What is sent again and again; NUMBER in the body makes each one unique."""

    port: int
    method: str
    path: str
    headers: dict[str, str] = field(default_factory=dict)
    body: str | None = None


@dataclass(frozen=True, slots=True)
class Load:
    """What came of it: good answers (below 400), the seconds they took, latencies in ms."""

    answered: int
    seconds: float
    p50: float
    p99: float
    failed: int

    @property
    def per_second(self) -> float:
        return self.answered / self.seconds


def put_load(request: Request, seconds: float) -> Load:
    """Send the request on CONNECTIONS connections at once, each again as soon as it is answered."""
    return _with_wrk(request, seconds) if TOOL == "wrk" else asyncio.run(_without(request, seconds))


# -- with wrk --


def _with_wrk(request: Request, seconds: float) -> Load:
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder, "load.lua")
        script.write_text(_lua(request))
        command = [
            *("wrk", "--threads", "1", "--connections", str(CONNECTIONS), "--timeout", "10s"),
            *("--duration", f"{max(1, round(seconds))}s", "--script", str(script)),
            f"http://127.0.0.1:{request.port}{request.path}",
        ]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return Load(**json.loads(output.strip().splitlines()[-1]))


def _lua(request: Request) -> str:
    return LUA % {
        "method": _quoted(request.method),
        "body": "nil" if request.body is None else _quoted(request.body),
        "headers": "\n".join(
            f"wrk.headers[{_quoted(name)}] = {_quoted(value)}"
            for name, value in request.headers.items()
        ),
        "number": NUMBER,
    }


def _quoted(text: str) -> str:
    """A Lua string; those of JSON are, as long as they are ASCII without control characters."""
    return json.dumps(text)


# -- without --


async def _without(request: Request, seconds: float) -> Load:
    loop = asyncio.get_running_loop()
    numbers = itertools.count(1)
    began = time.perf_counter()
    clients = [Client(request, numbers, began + seconds) for _ in range(CONNECTIONS)]
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
    """One connection, that sends its next request when the last one is answered."""

    def __init__(self, request: Request, numbers: itertools.count[int], until: float) -> None:
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.latencies: list[float] = []
        self.failed = 0
        self._before, _, self._after = (request.body or "").partition(NUMBER)
        self._unique = bool(request.body) and NUMBER in str(request.body)
        headers = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
        host = f"Host: 127.0.0.1:{request.port}"
        self._head = f"{request.method} {request.path} HTTP/1.1\r\n{host}\r\n{headers}"
        self._numbers = numbers
        self._until = until
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        self._send()

    def _send(self) -> None:
        number = next(self._numbers) if self._unique else ""
        body = f"{self._before}{number}{self._after}"
        self._transport.write(f"{self._head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
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
    """The value that this share (0..1) of the ordered values keeps below; 0 of none."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0
