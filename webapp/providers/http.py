"""HTTP to providers: geventhttpclient, which parses in C and reuses the latest idle connection.

An SDK would parse and serialize the JSON that Weir passes on unchanged.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Mapping
from typing import Any
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from geventhttpclient import HTTPClient
from geventhttpclient.response import HTTPParseError, HTTPSocketPoolResponse

from webapp import json_codec
from webapp.library_internals import resolve_localhost, wrap_connecting
from webapp.observability import tracing

CONNECT_TIMEOUT = 10.0
MAX_CONNECTIONS = 100_000  # not a limit in practice: Weir's own limits apply to calls
BLOCK = 64 * 1024
MAX_ANSWER_BYTES = 64 * 1024 * 1024  # bytes of a plain answer

# Errors of a connection, a host name or a certificate; and invalid HTTP.
BROKEN = (OSError, HTTPParseError)


class AnswerTooLong(Exception):
    """The answer is larger than MAX_ANSWER_BYTES."""


class NotReached(OSError):
    """The connection failed, so no request was sent."""


class RefusedByStatus(Exception):
    """The provider answered with an error status; `body` is its JSON, or {}."""

    def __init__(self, status: int, body: dict[str, Any], retry_after: str | None) -> None:
        super().__init__(f"status {status}")
        self.status = status
        self.body = body
        self.retry_after = retry_after


class Endpoint:
    """A server at a base URL, with fixed headers and query. Times are in seconds.

    All methods raise OSError, HTTPParseError, RefusedByStatus and AnswerTooLong.
    """

    def __init__(
        self, base_url: str, headers: Mapping[str, str], timeout: float, query: str = ""
    ) -> None:
        parts = urlsplit(base_url)
        self._path, self._query = parts.path, query
        self._headers = dict(headers)
        self._client = HTTPClient.from_url(
            f"{parts.scheme}://{parts.netloc}",
            concurrency=MAX_CONNECTIONS,
            block_size=BLOCK,
            connection_timeout=min(CONNECT_TIMEOUT, timeout),
            network_timeout=None,  # BaseProvider limits every wait
            **_forward_proxy(parts.scheme, parts.hostname or ""),
        )
        if parts.hostname == "localhost":
            resolve_localhost(self._client)
        wrap_connecting(self._client, _raising_not_reached)

    def get(self, path: str) -> Any:
        """The JSON of a GET. Raises ValueError too."""
        return json.loads(_whole(self._ask("GET", path, None)))

    def post(self, path: str, body: Mapping[str, Any]) -> str:
        """The whole answer as text. Raises ValueError if it is not UTF-8."""
        return _whole(self._ask("POST", path, body)).decode()

    def stream(self, path: str, body: Mapping[str, Any]) -> Generator[str]:
        """The data of each server-sent event; comments and other fields are ignored.

        Closing the iterator closes the connection.
        """
        response = self._ask("POST", path, body)
        try:
            while line := response.readline(b"\n"):
                if line.startswith(b"data:"):
                    yield line[5:].strip().decode()
        finally:
            response.release()

    def _ask(
        self, method: str, path: str, body: Mapping[str, Any] | None
    ) -> HTTPSocketPoolResponse:
        headers = {**self._headers, **tracing.headers()}
        content = b""
        if body is not None:
            content = json_codec.dumps(body)
            headers["Content-Type"] = "application/json"
        response = self._client.request(method, self._target(path), content, headers)
        if not 200 <= response.status_code < 300:
            try:
                raise _refusal(response)
            finally:
                response.release()
        return response

    def _target(self, path: str) -> str:
        """The path below the base URL, with the base URL's query."""
        if not self._query:
            return self._path + path
        return f"{self._path}{path}{'&' if '?' in path else '?'}{self._query}"


def _raising_not_reached(connect: Callable[[], Any]) -> Callable[[], Any]:
    def wrapped() -> Any:
        try:
            return connect()
        except (OSError, RuntimeError) as error:
            raise NotReached(str(error)) from error

    return wrapped


def _whole(response: HTTPSocketPoolResponse) -> bytes:
    try:
        parts, length = [], 0
        while part := response.read(BLOCK):
            parts.append(part)
            length += len(part)
            if length > MAX_ANSWER_BYTES:
                raise AnswerTooLong
        return b"".join(parts)
    finally:
        response.release()


def _refusal(response: HTTPSocketPoolResponse) -> RefusedByStatus:
    retry_after = response.get("retry-after")
    try:
        parsed = json.loads(response.read(BLOCK))
    except (ValueError, *BROKEN):
        parsed = {}
    body = parsed if isinstance(parsed, dict) else {}
    return RefusedByStatus(response.status_code, body, str(retry_after) if retry_after else None)


def _forward_proxy(scheme: str, host: str) -> dict[str, Any]:
    """The proxy that HTTPS_PROXY, HTTP_PROXY and NO_PROXY name for a host."""
    proxy = urlsplit(getproxies().get(scheme, ""))
    if not proxy.hostname or proxy_bypass(host):
        return {}
    return {
        "proxy_host": proxy.hostname,
        "proxy_port": proxy.port or 80,
        "proxy_user": unquote(proxy.username) if proxy.username else None,
        "proxy_password": unquote(proxy.password) if proxy.password else None,
    }
