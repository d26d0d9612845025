"""A static upstream with OpenAI's and Anthropic's protocols, much faster than Weir.

    python -m benchmarks.upstream --port 9000 [--chunks 20] [--seconds 5]

A plain completion is sent immediately, a streamed one in 20 chunks over 5 s by default. The model
`static-slow` takes 2 s for either. `GET /calls` returns the number of completions requested.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from dataclasses import dataclass
from typing import Any

from benchmarks.processes import allow_many_files

MODEL = "static-1"
SLOW_MODEL = "static-slow"
CHUNKS = 20
STREAM_SECONDS = 5.0
SLOW_SECONDS = 2.0
CHUNK_TEXT = "a piece of text "
USAGE = {"prompt_tokens": 20, "completion_tokens": 60, "total_tokens": 80}
MESSAGE_USAGE = {"input_tokens": 20, "output_tokens": 60}
LAST_CHUNK = b"0\r\n\r\n"


def plain_completion() -> dict[str, Any]:
    message = {"role": "assistant", "content": CHUNK_TEXT * CHUNKS}
    return {
        "id": "chatcmpl-static",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": MODEL,
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": USAGE,
    }


def stream_chunk(choices: list[dict[str, Any]], usage: dict[str, int] | None = None) -> bytes:
    chunk = {
        "id": "chatcmpl-static",
        "object": "chat.completion.chunk",
        "created": 1_700_000_000,
        "model": MODEL,
        "choices": choices,
        "usage": usage,
    }
    return in_transfer_coding(b"data: " + json.dumps(chunk).encode() + b"\n\n")


def text_chunk(delta: dict[str, str], finish_reason: str | None = None) -> bytes:
    return stream_chunk([{"index": 0, "delta": delta, "finish_reason": finish_reason}])


def message() -> dict[str, Any]:
    """The completion as Anthropic has it."""
    return {
        "id": "msg_static",
        "type": "message",
        "role": "assistant",
        "model": MODEL,
        "content": [{"type": "text", "text": CHUNK_TEXT * CHUNKS}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": MESSAGE_USAGE,
    }


def event(kind: str, **fields: Any) -> bytes:
    """An event of Anthropic's."""
    data = json.dumps({"type": kind, **fields})
    return in_transfer_coding(f"event: {kind}\ndata: {data}\n\n".encode())


def in_transfer_coding(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def json_response(body: Any) -> bytes:
    content = json.dumps(body).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(content)}"
    return head.encode() + b"\r\n\r\n" + content


MODELS = json_response(
    {"object": "list", "data": [{"id": name, "object": "model"} for name in (MODEL, SLOW_MODEL)]}
)
COMPLETION = json_response(plain_completion())
EMPTY = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
)
STREAM_CHUNK = text_chunk({"content": CHUNK_TEXT})
STREAM_END = (
    text_chunk({}, "stop")
    + stream_chunk([], USAGE)
    + in_transfer_coding(b"data: [DONE]\n\n")
    + LAST_CHUNK
)
MESSAGE = json_response(message())
EVENTS_HEAD = (
    STREAM_HEAD
    + event("message_start", message={**message(), "content": [], "stop_reason": None})
    + event("content_block_start", index=0, content_block={"type": "text", "text": ""})
)
EVENT = event("content_block_delta", index=0, delta={"type": "text_delta", "text": CHUNK_TEXT})
EVENTS_END = (
    event("content_block_stop", index=0)
    + event("message_delta", delta={"stop_reason": "end_turn"}, usage=MESSAGE_USAGE)
    + event("message_stop")
    + LAST_CHUNK
)


@dataclass(frozen=True, slots=True)
class Format:
    """The bytes of an answer, plain and streamed."""

    plain: bytes
    head: bytes
    chunk: bytes
    end: bytes


FORMATS = {
    b"POST /v1/chat/completions ": Format(COMPLETION, STREAM_HEAD, STREAM_CHUNK, STREAM_END),
    b"POST /v1/messages ": Format(MESSAGE, EVENTS_HEAD, EVENT, EVENTS_END),
}


class Upstream(asyncio.Protocol):
    """One connection. Its requests come one after the other."""

    calls = 0

    def __init__(self, chunks: int, seconds: float) -> None:
        self._chunks = chunks
        self._seconds = seconds
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, separator, rest = self._received.partition(b"\r\n\r\n")
        if not separator:
            return
        length = _content_length(head)
        if len(rest) >= length:
            self._received = rest[length:]
            self._respond(head, rest[:length])

    def _respond(self, head: bytes, body: bytes) -> None:
        if found := next((FORMATS[start] for start in FORMATS if head.startswith(start)), None):
            Upstream.calls += 1
            self._complete(json.loads(body), found)
        elif head.startswith(b"GET /v1/models "):
            self._transport.write(MODELS)
        elif head.startswith(b"POST /v1/traces "):
            self._transport.write(EMPTY)  # it also accepts traces
        elif head.startswith(b"GET /calls "):
            self._transport.write(json_response(Upstream.calls))
        else:
            self._transport.write(NOT_FOUND)

    def _complete(self, body: dict[str, Any], form: Format) -> None:
        is_slow = body.get("model") == SLOW_MODEL
        if body.get("stream"):
            self._stream(form, 0, (SLOW_SECONDS if is_slow else self._seconds) / self._chunks)
        elif is_slow:
            loop = asyncio.get_running_loop()
            loop.call_later(SLOW_SECONDS, self._transport.write, form.plain)
        else:
            self._transport.write(form.plain)

    def _stream(self, form: Format, sent: int, interval: float) -> None:
        """Write one chunk, and schedule the next one."""
        if self._transport.is_closing():
            return
        if sent == self._chunks:
            self._transport.write(form.end)
            return
        self._transport.write(form.chunk if sent else form.head + form.chunk)
        asyncio.get_running_loop().call_later(interval, self._stream, form, sent + 1, interval)


def _content_length(head: bytes) -> int:
    _, name, rest = head.lower().partition(b"\r\ncontent-length:")
    return int(rest.partition(b"\r\n")[0]) if name else 0


async def serve(port: int, chunks: int, seconds: float) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: Upstream(chunks, seconds), "127.0.0.1", port, backlog=4096
    )
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--chunks", type=int, default=CHUNKS, help="of a stream")
    parser.add_argument("--seconds", type=float, default=STREAM_SECONDS, help="of a stream")
    options = parser.parse_args()
    allow_many_files()
    asyncio.run(serve(options.port, options.chunks, options.seconds))


if __name__ == "__main__":
    main()
