"""A small LLM provider that runs in the test's process, at any address, and records each request.

It answers wherever it is asked, so that a test sees the address that was used, and names the model
that it was asked for. `authorization` is the header that it requires.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Recorded:
    """One request; `target` is the path with its query, as it came."""

    method: str
    target: str
    headers: Mapping[str, str] = field(repr=False)
    model: str | None


class RecordingProvider:
    """Serves OpenAI's and Anthropic's protocol under every path, until it is closed."""

    def __init__(
        self, host: str = "127.0.0.1", *, models: tuple[str, ...] = ("m1",), authorization: str = ""
    ) -> None:
        self.models = models
        self.authorization = authorization
        self.requests: list[Recorded] = []
        provider = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._answer({})

            def do_POST(self) -> None:
                self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

            def _answer(self, body: dict[str, Any]) -> None:
                headers = {name.lower(): value for name, value in self.headers.items()}
                model = body.get("model")
                provider.requests.append(Recorded(self.command, self.path, headers, model))
                status = 200
                answer = provider._answer(self.path.partition("?")[0], model)
                if provider.authorization not in {"", headers.get("authorization")}:
                    status, answer = 401, {"error": {"message": "Not you."}}
                content = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *args: Any) -> None: ...

        class Listener(ThreadingHTTPServer):
            address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
            daemon_threads = True

        self._listener = Listener((host, 0), Handler)
        self.port = self._listener.server_address[1]
        Thread(target=self._listener.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def calls(self) -> list[Recorded]:
        """The requests that would have cost money."""
        return [request for request in self.requests if request.method == "POST"]

    def _answer(self, path: str, model: str | None) -> dict[str, Any]:
        if path.endswith("/models"):
            return {
                "object": "list",
                "data": [{"id": name, "object": "model"} for name in self.models],
            }
        if path.endswith("/embeddings"):
            data = [{"object": "embedding", "index": 0, "embedding": [0.5]}]
            usage = {"prompt_tokens": 1, "total_tokens": 1}
            return {"object": "list", "model": model, "data": data, "usage": usage}
        if path.endswith("/messages"):
            return {
                "id": "msg_1", "type": "message", "role": "assistant", "model": model,
                "content": [{"type": "text", "text": "hello"}], "stop_reason": "end_turn",
                "stop_sequence": None, "usage": {"input_tokens": 1, "output_tokens": 1},
            }  # fmt: skip
        message = {"role": "assistant", "content": "hello"}
        return {
            "id": "c1", "object": "chat.completion", "created": 1, "model": model,
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
        }  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown()
        self._listener.server_close()
