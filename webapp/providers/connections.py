"""HTTP connections to providers, kept in a stack.

httpx's own pool looks at every connection, and asks the system about each idle one, twice a
request. With hundreds of streams open that costs more than the request; here it costs the same
however many there are.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import cast

import httpcore2
import httpx2

Host = tuple[bytes, bytes, int]  # scheme, name, port

KEPT_IDLE = 64
IDLE_FOR = 30.0

# From the most specific on: the first that fits is raised.
ERRORS: list[tuple[type[Exception], type[httpx2.TransportError]]] = [
    (httpcore2.ConnectTimeout, httpx2.ConnectTimeout),
    (httpcore2.TimeoutException, httpx2.ReadTimeout),
    (httpcore2.ConnectError, httpx2.ConnectError),
    (httpcore2.NetworkError, httpx2.ReadError),
    (httpcore2.RemoteProtocolError, httpx2.RemoteProtocolError),
    (httpcore2.ProtocolError, httpx2.ProtocolError),
]


class ConnectionStack(httpx2.BaseTransport):
    """A transport that reuses the connection that became idle last."""

    def __init__(self) -> None:
        self._certificates = httpx2.create_ssl_context()
        self._idle: defaultdict[Host, deque[httpcore2.HTTPConnection]] = defaultdict(deque)

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        url = httpcore2.URL(
            scheme=request.url.raw_scheme,
            host=request.url.raw_host,
            port=request.url.port,
            target=request.url.raw_path,
        )
        sent = httpcore2.Request(
            request.method,
            url,
            headers=request.headers.raw,
            content=cast(Iterable[bytes], request.stream),
            extensions=request.extensions,
        )
        connection = self._take(url.origin)
        try:
            with _translated():
                received = connection.handle_request(sent)
        except BaseException:
            connection.close()
            raise

        def release() -> None:
            self._put(url.origin, connection)

        return httpx2.Response(
            received.status,
            headers=received.headers,
            stream=_Body(received, release),
            extensions=received.extensions,
        )

    def close(self) -> None:
        for stack in self._idle.values():
            for connection in stack:
                connection.close()
        self._idle.clear()

    def _take(self, origin: httpcore2.Origin) -> httpcore2.HTTPConnection:
        stack = self._idle[origin.scheme, origin.host, origin.port]
        while stack:
            connection = stack.pop()
            if not connection.has_expired():
                return connection
            connection.close()
        return httpcore2.HTTPConnection(
            origin, ssl_context=self._certificates, keepalive_expiry=IDLE_FOR
        )

    def _put(self, origin: httpcore2.Origin, connection: httpcore2.HTTPConnection) -> None:
        stack = self._idle[origin.scheme, origin.host, origin.port]
        if not connection.is_idle():
            connection.close()
            return
        stack.append(connection)
        if len(stack) > KEPT_IDLE:
            stack.popleft().close()


class _Body(httpx2.SyncByteStream):
    """The body of a response; its connection is released when it is closed, however that comes."""

    def __init__(self, received: httpcore2.Response, release: Callable[[], None]) -> None:
        self._received = received
        self._release = release

    def __iter__(self) -> Iterator[bytes]:
        with _translated():
            yield from self._received.iter_stream()

    def close(self) -> None:
        try:
            self._received.close()
        finally:
            self._release()


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except tuple(core for core, _ in ERRORS) as error:
        public = next(public for core, public in ERRORS if isinstance(error, core))
        raise public(str(error)) from error
