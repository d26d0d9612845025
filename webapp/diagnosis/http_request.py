"""HTTP requests of checks, which wait a few seconds at most."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import gevent
from geventhttpclient import HTTPClient

CHECK_TIMEOUT = 5.0


def get(url: str, headers: Mapping[str, str] | None = None) -> Any:
    return request("GET", url, headers)


def request(
    method: str, url: str, headers: Mapping[str, str] | None = None, body: Any = None
) -> Any:
    parts = urlsplit(url)
    client = HTTPClient.from_url(
        f"{parts.scheme}://{parts.netloc}",
        connection_timeout=CHECK_TIMEOUT,
        network_timeout=CHECK_TIMEOUT,
    )
    sent = dict(headers or {})
    content = b""
    if body is not None:
        content, sent["Content-Type"] = json.dumps(body).encode(), "application/json"
    with gevent.Timeout(CHECK_TIMEOUT, TimeoutError):
        return client.request(method, parts.path or "/", content, sent)
