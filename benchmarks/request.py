"""A request, for all clients of the benchmarks."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

# Replaced by the request's number, if every body must be different.
NUMBER = "#NUMBER#"


@dataclass(frozen=True, slots=True)
class Request:
    """A request that is sent repeatedly. NUMBER in the body makes each one unique."""

    port: int
    method: str
    path: str
    headers: dict[str, str] = field(default_factory=dict)
    body: str = ""

    @property
    def is_unique(self) -> bool:
        return NUMBER in self.body

    def content(self, number: int, *, last: bool = False) -> bytes:
        """The bytes to send. The server closes the connection after the `last` one."""
        body = self.body.replace(NUMBER, str(number)).encode()
        headers = {
            "Host": f"127.0.0.1:{self.port}",
            **self.headers,
            "Content-Length": str(len(body)),
            **({"Connection": "close"} if last else {}),
        }
        lines = [f"{name}: {value}" for name, value in headers.items()]
        head = "\r\n".join([f"{self.method} {self.path} HTTP/1.1", *lines, "", ""])
        return head.encode() + body


def post(port: int, path: str, headers: dict[str, str], body: Any) -> Request:
    """A POST of JSON."""
    return Request(
        port, "POST", path, {"Content-Type": "application/json", **headers}, json.dumps(body)
    )
