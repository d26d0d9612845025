"""A third-party OTLP collector (rotel), and the spans that it forwards."""

from __future__ import annotations

import gzip
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

import pytest
import requests
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.support.servers import Server, _package, free_port


class Span(NamedTuple):
    """A span forwarded by the collector. Ids are hexadecimal, times in seconds."""

    trace_id: str
    id: str
    parent_id: str
    name: str
    kind: int
    attributes: dict[str, Any]
    resource: dict[str, Any]
    failed: bool
    began: float
    ended: float


class Collector(Server):
    """Receives OTLP over HTTP, and forwards it as OTLP to a server that stores the spans."""

    def __init__(self) -> None:
        if sys.version_info >= (3, 14):
            pytest.skip("rotel has no wheel for Python 3.14")
        super().__init__()
        self.received: list[Span] = []
        self.raw = b""
        self._grpc_port = free_port()
        self._sink = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        threading.Thread(target=self._sink.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def spans(self, trace_id: str | None = None) -> list[Span]:
        """The received spans by start time, optionally of one trace."""
        found = [span for span in list(self.received) if trace_id in {None, span.trace_id}]
        return sorted(found, key=lambda span: span.began)

    def close(self) -> None:
        super().close()
        self._sink.shutdown()
        self._sink.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    content = gzip.decompress(content)
                collector.raw += content
                collector.received += _read(content)
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        return Handler

    def _command(self) -> list[str]:
        sink = f"http://127.0.0.1:{self._sink.server_address[1]}"
        options = {
            "--otlp-http-endpoint": f"127.0.0.1:{self.port}",
            "--otlp-grpc-endpoint": f"127.0.0.1:{self._grpc_port}",
            "--exporter": "otlp",
            "--otlp-exporter-protocol": "http",
            "--otlp-exporter-endpoint": sink,
            "--batch-timeout": "50ms",
        }
        program = _package("rotel") / "rotel-agent"
        return [str(program), "start", *(text for pair in options.items() for text in pair)]

    def _is_ready(self) -> bool:
        try:
            url = f"{self.url}/v1/traces"
            headers = {"Content-Type": "application/x-protobuf"}
            return requests.post(url, data=b"", headers=headers, timeout=2).ok
        except requests.RequestException:
            return False


def _read(content: bytes) -> list[Span]:
    message = ExportTraceServiceRequest.FromString(content)
    return [
        Span(
            span.trace_id.hex(),
            span.span_id.hex(),
            span.parent_span_id.hex(),
            span.name,
            span.kind,
            _plain(span.attributes),
            _plain(of_resource.resource.attributes),
            span.status.code == 2,
            span.start_time_unix_nano / 1e9,
            span.end_time_unix_nano / 1e9,
        )
        for of_resource in message.resource_spans
        for of_scope in of_resource.scope_spans
        for span in of_scope.spans
    ]


def _plain(attributes: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}
