"""A request, as all clients of the benchmark send it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

# Where a body must differ from request to request, this becomes the request's number.
NUMBER = "#NUMBER#"


@dataclass(frozen=True, slots=True)
class Request:
    """What is sent again and again; NUMBER in the body makes each one unique."""

    port: int
    method: str
    path: str
    headers: dict[str, str] = field(default_factory=dict)
    body: str = ""

    @property
    def is_unique(self) -> bool:
        return NUMBER in self.body

    def content(self, number: int, *, last: bool = False) -> bytes:
        """The bytes to send; after the `last` one the server closes the connection."""
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
