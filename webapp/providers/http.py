"""HTTP to providers: geventhttpclient, which parses in C and reuses the latest idle connection.

An SDK would parse and serialize the JSON that Weir passes on unchanged.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping
from email.utils import parsedate_to_datetime
from itertools import chain
from typing import Any
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import gevent
from geventhttpclient import HTTPClient
from geventhttpclient.response import (
    HTTPConnectionClosed,
    HTTPParseError,
    HTTPSocketPoolResponse,
)

from webapp import json_codec
from webapp.errors import ProviderTimedOut
from webapp.library_internals import (
    close_idle_connections,
    poll_idle_connections,
    read_available,
    resolve_localhost,
    wrap_connecting,
)
from webapp.observability import tracing
from webapp.providers.content_encoding import decoder
from webapp.providers.server_sent_events import BYTE_ORDER_MARK, read_events

CONNECT_TIMEOUT = 10.0
MAX_CONNECTIONS = 100_000  # not a limit in practice: Weir's own limits apply to calls
MAX_CONNECTS = 3  # for one request
BLOCK = 8 * 1024  # of each stream, so much waits to be read
MAX_ERROR_BYTES = 64 * 1024
MAX_ANSWER_BYTES = 64 * 1024 * 1024  # bytes of a plain answer
# Seconds after which a closed connection no longer means that the request was not processed.
LOST_SEND_WITHIN = 1.0
MAX_RETRY_AFTER = 86_400.0  # seconds

# Errors of a connection, a host name or a certificate; and invalid HTTP.
BROKEN = (OSError, HTTPParseError)


# Told when a call began (monotonic), and the headers of its answer, whatever its status.
NoteHeaders = Callable[[float, Mapping[str, object]], object]


class AnswerTooLong(Exception):
    """The answer is larger than MAX_ANSWER_BYTES."""


class NotReached(OSError):
    """The connection failed, so no request was sent."""


class LostSend(OSError):
    """The server closed a connection that it had kept before a byte of the answer.

    `seconds` passed since the request was sent.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__("the connection had been closed")
        self.seconds = seconds


class RefusedByStatus(Exception):
    """The provider answered with an error status; `body` is its JSON or its text.

    `retry_after` is in seconds.
    """

    def __init__(self, status: int, body: Any, retry_after: float | None = None) -> None:
        super().__init__(f"status {status}")
        self.status = status
        self.body = body
        self.retry_after = retry_after


class ReportedInStream(Exception):
    """The provider sent an event of the type `error`; `body` is its JSON or its text."""

    def __init__(self, body: Any) -> None:
        super().__init__("an error in a stream")
        self.body = body


class Endpoint:
    """A server at a base URL, with fixed headers and query. Times are in seconds.

    All methods raise OSError, HTTPParseError, RefusedByStatus, AnswerTooLong and EventTooLong.
    """

    def __init__(
        self, base_url: str, headers: Mapping[str, str], timeout: float, query: str = ""
    ) -> None:
        parts = urlsplit(base_url)
        self._path, self._query = parts.path, query
        self.headers = dict(headers)
        self._client = HTTPClient.from_url(
            f"{parts.scheme}://{parts.netloc}",
            concurrency=MAX_CONNECTIONS,
            block_size=BLOCK,
            connection_timeout=min(CONNECT_TIMEOUT, timeout),
            network_timeout=None,  # BaseProvider limits every wait
            **_forward_proxy(parts.scheme, parts.hostname or ""),
        )
        poll_idle_connections(self._client)
        if parts.hostname == "localhost":
            resolve_localhost(self._client)
        # How many connections the request of a greenlet has opened, instead of reusing one.
        self._connected: Counter[object] = Counter()
        wrap_connecting(self._client, self._noting_connections)

    def get(self, path: str) -> Any:
        """The JSON of a GET. Raises ValueError too."""
        text = _whole(self._ask("GET", path, None)).decode("utf-8-sig")
        try:
            return json.loads(text)
        except RecursionError:
            raise ValueError("nested too deeply") from None

    def post(
        self,
        path: str,
        body: Mapping[str, Any],
        note: NoteHeaders,
        headers: Mapping[str, str] | None = None,
    ) -> str:
        """The whole answer as text. Raises ValueError if it is not UTF-8."""
        return _whole(self._ask("POST", path, body, note, headers)).decode("utf-8-sig")

    def call(self, method: str, path: str) -> str:
        """The answer to a request without a body, as text. Raises ValueError if it is not UTF-8."""
        return _whole(self._ask(method, path, None)).decode("utf-8-sig")

    def stream(
        self,
        path: str,
        body: Mapping[str, Any],
        note: NoteHeaders,
        headers: Mapping[str, str] | None = None,
    ) -> Generator[str]:
        """The data of each server-sent event, or the whole body of a server that does not stream.

        Closing the iterator closes the connection. Raises ReportedInStream and ValueError too.
        """
        response = self._ask("POST", path, body, note, headers)
        try:
            # Servers mislabel both, but no event begins as JSON does.
            parts, begins = _peeked(_parts(response))
            if begins in {b"{", b"["}:
                yield _joined(parts).decode("utf-8-sig")
                return
            for kind, data in read_events(parts):
                if kind == "error":
                    raise ReportedInStream(_parsed(data))
                yield data
        finally:
            response.release()

    def _ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        note: NoteHeaders | None = None,
        more_headers: Mapping[str, str] | None = None,
    ) -> HTTPSocketPoolResponse:
        began = time.monotonic()
        headers = {**self.headers, **(more_headers or {}), **tracing.headers()}
        content = b""
        if body is not None:
            content = json_codec.dumps(body)
            headers["Content-Type"] = "application/json"
        response = self._send(method, self._target(path), content, headers)
        if note:
            note(began, response.info())
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

    def _send(
        self, method: str, path: str, content: bytes, headers: Mapping[str, str]
    ) -> HTTPSocketPoolResponse:
        began = time.monotonic()
        try:
            return self._client.request(method, path, content, headers)
        except (HTTPConnectionClosed, ConnectionResetError, BrokenPipeError) as error:
            seconds = time.monotonic() - began
            if gevent.getcurrent() in self._connected or seconds > LOST_SEND_WITHIN:
                raise
            # The server has probably closed the others too.
            close_idle_connections(self._client)
            raise LostSend(seconds) from error
        finally:
            del self._connected[gevent.getcurrent()]

    def _noting_connections(self, connect: Callable[[], Any]) -> Callable[[], Any]:
        def wrapped() -> Any:
            self._connected[gevent.getcurrent()] += 1
            if self._connected[gevent.getcurrent()] > MAX_CONNECTS:
                # The library repeats a GET as often as the server closes the connection.
                raise NotReached("the server closes every connection")
            try:
                return connect()
            except (OSError, RuntimeError) as error:
                raise NotReached(str(error)) from error
            except ProviderTimedOut as error:
                error.uncharged().unreachable = True
                raise

        return wrapped


def _parts(response: HTTPSocketPoolResponse) -> Iterator[bytes]:
    """The body as it arrives, decoded."""
    encoding = response.get("content-encoding")
    decoding = decoder(str(encoding)) if encoding else None
    while part := read_available(response):
        if decoding is None:
            yield part
        else:
            yield from decoding.decode(part)


def _peeked(parts: Iterator[bytes]) -> tuple[Iterator[bytes], bytes]:
    """The same parts, and the first byte that is no space and no byte order mark."""
    head = begins = b""
    for part in parts:
        head += part
        begins = head.lstrip(BYTE_ORDER_MARK + b" \t\r\n")[:1]
        if begins:
            break
    return chain([head], parts), begins


def _whole(response: HTTPSocketPoolResponse) -> bytes:
    try:
        return _joined(_parts(response))
    finally:
        response.release()


def _joined(parts: Iterator[bytes]) -> bytes:
    read, length = [], 0
    for part in parts:
        read.append(part)
        length += len(part)
        if length > MAX_ANSWER_BYTES:
            raise AnswerTooLong
    return b"".join(read)


def _refusal(response: HTTPSocketPoolResponse) -> RefusedByStatus:
    read = b""
    with contextlib.suppress(ValueError, *BROKEN):
        for part in _parts(response):
            read += part
            if len(read) >= MAX_ERROR_BYTES:
                break
    body = _parsed(read.decode(errors="replace").removeprefix("\ufeff"))
    return RefusedByStatus(response.status_code, body, retry_after_of(response))


def _parsed(text: str) -> Any:
    """The JSON of a text, or the text itself."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def retry_after_of(headers: Any) -> float | None:
    """The seconds of `retry-after-ms` and `Retry-After`, a number or a date (RFC 9110, 10.2.3)."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        with contextlib.suppress(ValueError, TypeError):
            seconds = float(headers.get(name)) * unit
            if math.isfinite(seconds):
                return min(max(0.0, seconds), MAX_RETRY_AFTER)
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        at = parsedate_to_datetime(str(headers.get("retry-after")))
        return min(max(0.0, at.timestamp() - time.time()), MAX_RETRY_AFTER)
    return None


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
