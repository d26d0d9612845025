"""A reverse proxy that serves a Weir below a sub-path: a few lines of nginx, in a thread."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

import requests

from tests.support.servers import Weir

# Headers of one connection, or of a body that requests has decoded.
OWN = {"connection", "transfer-encoding", "content-encoding", "content-length", "keep-alive"}


class SubPathProxy:
    """Strips `prefix` and says so in X-Forwarded-Prefix. Other paths are another service's."""

    def __init__(self, weir: Weir, prefix: str = "/weir") -> None:
        self.weir = weir
        self.prefix = prefix
        self.strays: list[str] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if not self.path.startswith(f"{proxy.prefix}/"):
                    proxy.strays.append(self.path)
                    self.send_error(404, "Another service")
                    return
                sent = {k: v for k, v in self.headers.items() if k.lower() not in OWN}
                sent |= {
                    "X-Forwarded-For": self.client_address[0],
                    "X-Forwarded-Host": self.headers["Host"],
                    "X-Forwarded-Proto": "http",
                    "X-Forwarded-Prefix": proxy.prefix,
                }
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                answer = requests.request(
                    self.command, proxy.weir.url + self.path.removeprefix(proxy.prefix),
                    headers=sent, data=body, allow_redirects=False, timeout=30,
                )  # fmt: skip
                self.send_response(answer.status_code)
                for name, value in answer.raw.headers.items():
                    if name.lower() not in OWN:
                        self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer.content)))
                self.end_headers()
                self.wfile.write(answer.content)

            do_POST = do_GET

            def log_message(self, *_: object) -> None:
                pass

        return Handler

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
