"""Stands in for llama.cpp: its options, and a server that repeats what it is told.

STAND_IN_LOADING (seconds) is how long it takes to load.
"""

from __future__ import annotations

import json
import os
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any


class CommonParams(SimpleNamespace):
    def __init__(self) -> None:
        threads = SimpleNamespace(n_threads=0)
        super().__init__(
            model=SimpleNamespace(),
            cpuparams=threads,
            cpuparams_batch=threads,
            sampling=SimpleNamespace(),
        )


class Server:
    def __init__(self, options: CommonParams) -> None:
        time.sleep(float(os.environ.get("STAND_IN_LOADING", 0)))
        [alias], [key] = options.model_alias, options.api_keys

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._send({"data": [{"id": alias, "object": "model", "owned_by": "llamacpp"}]})

            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                said = f"You said: {asked['messages'][-1]['content']}"
                usage = {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}
                if not asked.get("stream"):
                    self._send(_chat("message", alias, said, usage))
                    return
                chunks = [
                    _chat("delta", alias, said[:4], None),
                    _chat("delta", alias, said[4:], usage),
                ]
                lines = "".join(f"data: {_json(chunk)}\n\n" for chunk in chunks)
                self._send(f"{lines}data: [DONE]\n\n", "text/event-stream")

            def _send(self, body: Any, kind: str = "application/json") -> None:
                allowed = self.headers["Authorization"] == f"Bearer {key}"
                if not allowed:
                    body, kind = {"error": {"message": "Invalid API Key"}}, "application/json"
                data = (body if isinstance(body, str) else _json(body)).encode()
                self.send_response(200 if allowed else 401)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None: ...

        server = ThreadingHTTPServer((options.hostnames[0], options.port), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()


def _chat(part: str, model: str, text: str, usage: dict[str, int] | None) -> dict[str, Any]:
    """The fields in llama.cpp's order."""
    message = {"role": "assistant", "content": text}
    kind = "chat.completion" if part == "message" else "chat.completion.chunk"
    return {
        "choices": [{"finish_reason": "stop", "index": 0, part: message}],
        "created": 1,
        "model": model,
        "object": kind,
        **({"usage": usage} if usage else {}),
        "id": "chatcmpl-1",
    }


def _json(body: Any) -> str:
    return json.dumps(body, separators=(",", ":"))
