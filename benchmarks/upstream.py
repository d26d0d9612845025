"""A static OpenAI-compatible provider that answers faster than Weir asks: `python -m … PORT`."""

from __future__ import annotations

import asyncio
import json
import resource
import sys
from typing import Any

PIECES = 20
SECONDS = 5.0


def _http(body: bytes) -> bytes:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


def _chunk(data: bytes) -> bytes:
    event = b"data: " + data + b"\n\n"
    return b"%x\r\n%s\r\n" % (len(event), event)


def _event(choices: list[dict[str, Any]], **more: Any) -> bytes:
    common = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "static"}
    return _chunk(json.dumps(common | {"choices": choices} | more).encode())


USAGE = {"prompt_tokens": 5, "completion_tokens": PIECES, "total_tokens": 5 + PIECES}
MESSAGE = {"role": "assistant", "content": "A weir is a low barrier across a river."}
PLAIN = _http(
    json.dumps(
        {
            "id": "c",
            "object": "chat.completion",
            "created": 1,
            "model": "static",
            "choices": [{"index": 0, "message": MESSAGE, "finish_reason": "stop"}],
            "usage": USAGE,
        }
    ).encode()
)
MODELS = _http(json.dumps({"object": "list", "data": [{"id": "static"}]}).encode())
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
)
PIECE = _event([{"index": 0, "delta": {"content": "word "}, "finish_reason": None}])
END = (
    _event([{"index": 0, "delta": {}, "finish_reason": "stop"}])
    + _event([], usage=USAGE)
    + _chunk(b"[DONE]")
    + b"0\r\n\r\n"
)


class Provider(asyncio.Protocol):
    """One connection: requests in order, each answered as soon as it is complete."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.received = b""

    def data_received(self, data: bytes) -> None:
        self.received += data
        while (request := self._next_request()) is not None:
            self._answer(*request)

    def _next_request(self) -> tuple[bytes, bytes] | None:
        head, separator, rest = self.received.partition(b"\r\n\r\n")
        _, _, after = head.lower().partition(b"content-length:")
        length = int(after.partition(b"\r\n")[0] or 0)
        if not separator or len(rest) < length:
            return None
        self.received = rest[length:]
        return head, rest[:length]

    def _answer(self, head: bytes, body: bytes) -> None:
        if head.startswith(b"GET"):
            self.transport.write(MODELS)
        elif b'"stream":true' in body.replace(b" ", b""):
            self.transport.write(STREAM_HEAD)
            self._stream(PIECES)
        else:
            self.transport.write(PLAIN)

    def _stream(self, left: int) -> None:
        if self.transport.is_closing():
            return
        self.transport.write(PIECE if left else END)
        if left:
            asyncio.get_running_loop().call_later(SECONDS / PIECES, self._stream, left - 1)


async def _serve(port: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Provider, "127.0.0.1", port, backlog=8192)
    await server.serve_forever()


if __name__ == "__main__":
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    asyncio.run(_serve(int(sys.argv[1])))
