"""A reverse proxy as platforms put one in front of a Weir, in a thread: TLS, and faults."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Collection
from http.client import HTTPConnection, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self

from tests.support.servers import Weir

# Headers of one connection.
OWN = {"connection", "transfer-encoding", "content-length", "keep-alive"}


class EdgeProxy:
    """Passes requests on and says who asks, as TRUSTED_PROXIES=1 expects it.

    `prefix` is the sub-path that it serves Weir below, `certificate` a file with a key for TLS. It
    answers the first `refusals` requests with 502, holds streams back until they end if it
    `buffers`, lets them end after `cuts_after` bytes, and takes the headers in `takes` away.
    """

    def __init__(
        self,
        weir: Weir,
        *,
        prefix: str = "",
        certificate: Path | None = None,
        refusals: int = 0,
        buffers: bool = False,
        cuts_after: int | None = None,
        takes: Collection[str] = (),
    ) -> None:
        self.weir = weir
        self.prefix = prefix
        self.refusals = refusals
        self.buffers = buffers
        self.cuts_after = cuts_after
        self.takes = OWN | {name.lower() for name in takes}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.scheme = "https" if certificate else "http"
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.url = f"{self.scheme}://localhost:{self._server.server_port}{prefix}"

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if proxy.refusals > 0 or not self.path.startswith(f"{proxy.prefix}/"):
                    proxy.refusals -= 1
                    self.send_error(502)
                    return
                connection = HTTPConnection("127.0.0.1", proxy.weir.port, timeout=30)
                sent = {k: v for k, v in self.headers.items() if k.lower() not in OWN}
                sent |= {
                    "X-Forwarded-For": self.client_address[0],
                    "X-Forwarded-Proto": proxy.scheme,
                    "X-Forwarded-Prefix": proxy.prefix,
                }
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                path = self.path.removeprefix(proxy.prefix)
                connection.request(self.command, path, body, sent)
                self._pass_on(connection.getresponse())
                connection.close()

            do_POST = do_GET

            def _pass_on(self, answer: HTTPResponse) -> None:
                """The answer ends with its connection, as HTTP/1.0 has it."""
                held = answer.read() if proxy.buffers else b""
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    if name.lower() not in proxy.takes:
                        self.send_header(name, value)
                self.end_headers()
                self.wfile.write(held)
                left = proxy.cuts_after if answer.headers.get("X-Accel-Buffering") else None
                while part := answer.read1(65536):
                    self.wfile.write(part if left is None else part[:left])
                    left = None if left is None else left - len(part)
                    if left is not None and left <= 0:
                        return

            def log_message(self, *_: object) -> None:
                pass

        return Handler

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
