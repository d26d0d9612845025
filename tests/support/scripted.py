"""A provider in a thread of the tests that answers with the messages and the usage it is given."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


class ScriptedProvider:
    """Answers every chat request with `messages`, one for each choice, and with `fields`, such as
    its `usage`; and embeddings with `fields`. `bodies` are the requests."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.fields: dict[str, Any] = {}
        self.bodies: list[dict[str, Any]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.base_url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def answers(self, *messages: dict[str, Any], **fields: Any) -> None:
        """Answer so from now on."""
        self.messages = [{"role": "assistant", **message} for message in messages]
        self.fields = fields
        self.bodies = []

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                provider.bodies.append(body)
                streamed = body.get("stream") is True
                content = (provider._stream(body) if streamed else provider._whole(body)).encode()
                self.send_response(200)
                kind = "text/event-stream" if streamed else "application/json"
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        return Handler

    def _whole(self, body: dict[str, Any]) -> str:
        head = {"id": "a1", "object": "chat.completion", "created": 1, "model": body["model"]}
        if self.messages:
            choices = [
                {"index": index, "message": message, "finish_reason": "stop"}
                for index, message in enumerate(self.messages)
            ]
            return json.dumps(head | {"choices": choices} | self.fields)
        data = [{"object": "embedding", "index": 0, "embedding": [0.5]}]
        return json.dumps({"object": "list", "data": data, "model": body["model"]} | self.fields)

    def _stream(self, body: dict[str, Any]) -> str:
        chunks = (json.dumps(chunk) for chunk in self._chunks(body))
        return "".join(f"data: {data}\n\n" for data in (*chunks, "[DONE]"))

    def _chunks(self, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        head = {"id": "a1", "object": "chat.completion.chunk", "created": 1, "model": body["model"]}
        told = {name: value for name, value in self.fields.items() if name != "usage"}
        for index, message in enumerate(self.messages):
            for delta, reason in ((message, None), ({}, "stop")):
                choice = {"index": index, "delta": delta, "finish_reason": reason}
                yield head | {"choices": [choice]} | told
        if "usage" in self.fields:
            yield head | {"choices": [], "usage": self.fields["usage"]} | told

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
