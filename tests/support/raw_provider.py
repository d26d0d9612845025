"""A provider that answers each call with the very bytes that a test has registered for it.

The stand-in of `tests.support.provider` is a good server with faults; this one has no protocol at
all. A call names its reply by a marker in its prompt.
"""

from __future__ import annotations

import json
import re
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from typing import Any, Self

from tests.support.background_server import BackgroundServer

MARKER = re.compile(rb"reply-\d+")
REPR_MAX = 10_000  # characters
MODELS = {"object": "list", "data": [{"id": "m1", "object": "model", "created": 1}]}


@dataclass(frozen=True, repr=False)
class Reply:
    """An answer: its parts are sent one by one. `cut` ends it before HTTP says that it is over.
    That comes after `lingers` seconds."""

    parts: Sequence[bytes]
    status: int = 200
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: bool = False
    lingers: float = 0.0

    def __repr__(self) -> str:
        text = repr(list(self.parts))
        text = text if len(text) < REPR_MAX else f"{text[:REPR_MAX]}…"
        return f"Reply({text}, {self.status}, {self.content_type!r}, cut={self.cut})"

    @classmethod
    def json(cls, body: Any, status: int = 200, **headers: str) -> Self:
        return cls([json.dumps(body).encode()], status, headers=headers)

    @classmethod
    def events(cls, *events: Any, cut: bool = False, lingers: float = 0.0) -> Self:
        """Server-sent events: objects as JSON, named by their `type` if they have one."""
        parts = [_event(event) for event in events]
        return cls(parts, content_type="text/event-stream", cut=cut, lingers=lingers)


class RawProvider(BackgroundServer):
    """Serves on a port of its own while its context lasts, in threads of the test's process."""

    def __init__(self) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._numbers = count(1)
        self._replies: dict[str, Mapping[str, Reply]] = {}
        self._calls: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.listings: dict[str, Reply] = {}  # by path; others are MODELS

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def register(self, reply: Reply | Mapping[str, Reply]) -> str:
        """The marker of a reply, to put in a prompt; of several, by the ends of their paths."""
        marker = f"reply-{next(self._numbers):06}"
        self._replies[marker] = reply if isinstance(reply, Mapping) else {"": reply}
        return marker

    def calls(self, marker: str) -> list[dict[str, Any]]:
        """The bodies of all calls with this marker."""
        return self._calls[marker]

    def reply(self, path: str, body: bytes) -> Reply:
        found = MARKER.search(body)
        marker = found[0].decode() if found else ""
        self._calls[marker].append(json.loads(body))
        replies = self._replies.get(marker, {"": Reply.json({}, 404)})
        return next(reply for end, reply in replies.items() if path.endswith(end))


def _event(event: Any) -> bytes:
    if isinstance(event, str):
        return f"data: {event}\n\n".encode()
    name = f"event: {event['type']}\n" if "type" in event else ""
    return f"{name}data: {json.dumps(event)}\n\n".encode()


def _handler(provider: RawProvider) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._send(provider.listings.get(self.path, Reply.json(MODELS)))

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self._send(provider.reply(self.path.partition("?")[0], body))

        def log_message(self, *message: Any) -> None: ...

        def _send(self, reply: Reply) -> None:
            self.close_connection = True
            # A client may leave before the end.
            with suppress(OSError):
                self.send_response(reply.status)
                self.send_header("Content-Type", reply.content_type)
                self.send_header("Transfer-Encoding", "chunked")
                self.send_header("Connection", "close")
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                for part in filter(None, reply.parts):
                    self.wfile.write(b"%x\r\n%b\r\n" % (len(part), part))
                time.sleep(reply.lingers)
                if not reply.cut:
                    self.wfile.write(b"0\r\n\r\n")

    return Handler
