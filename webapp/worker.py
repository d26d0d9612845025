"""The Gunicorn worker: gevent's, with a faster drain and JSON errors for malformed HTTP."""

from __future__ import annotations

import json
import sys
import time
import uuid
from collections import Counter
from functools import cached_property
from typing import TYPE_CHECKING, Any

import gevent
from gunicorn.arbiter import Arbiter
from gunicorn.http.errors import (
    LimitRequestHeaders,
    LimitRequestLine,
    ParseException,
    UnsupportedTransferCoding,
)
from gunicorn.workers.ggevent import GeventWorker

from webapp.client_socket import ClientSocket
from webapp.forwarded import client_address, network_of
from webapp.library_internals import do_less_for_each_request
from webapp.unread_answers import UnreadAnswers

if TYPE_CHECKING:
    from webapp.observability.lifecycle import Lifecycle
    from webapp.settings import Settings

IDLE_CHECK_INTERVAL = 0.5  # seconds
REFUSALS_LOGGED_EVERY = 60.0  # seconds
# Seconds that a shutdown waits for a client that stalls, near its end: its call has to be settled.
MIN_PATIENCE = 3.0

# Requests that Gunicorn refuses before they reach the application.
REFUSALS: list[tuple[type[Exception], str, str]] = [
    (LimitRequestLine, "414 URI Too Long", "The request URI is too long."),
    (LimitRequestHeaders, "431 Request Header Fields Too Large", "The headers are too large."),
    (UnsupportedTransferCoding, "501 Not Implemented", "This Transfer-Encoding is not supported."),
    (ParseException, "400 Bad Request", "Malformed HTTP request."),
]


class Expired(BaseException):
    """A connection has waited too long for its next request."""


class IdleConnection:
    """A connection that waits for its next request. A timer of its own for each request would cost
    more than all of them together are looked through twice a second."""

    def __init__(self, idle: set[IdleConnection]) -> None:
        self._idle = idle
        self._greenlet = gevent.getcurrent()
        self.since = time.monotonic()

    def __enter__(self) -> None:
        self._idle.add(self)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        self._idle.discard(self)
        return kind is Expired

    def expire(self) -> None:
        """End the wait, unless it has just ended. To be called by the hub."""
        if self in self._idle:
            self._greenlet.throw(Expired)


class WeirWorker(GeventWorker):  # type: ignore[misc]
    """Notifies the application of a drain, closes idle keep-alive connections at once, and limits
    what slow clients can hold."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._idle: set[IdleConnection] = set()
        self._longest_idle = float(self.cfg.keepalive)
        self._connections: Counter[str] = Counter()
        self._refused = 0
        self._refusals_logged_at = -REFUSALS_LOGGED_EVERY

    def init_process(self) -> None:
        do_less_for_each_request(self)
        try:
            super().init_process()
        except Exception:
            # Gunicorn would log it, and also print it to stderr, with secrets.
            self.log.exception("Exception in worker process")
            sys.exit(-1 if self.booted else Arbiter.WORKER_BOOT_ERROR)

    def load_wsgi(self) -> None:
        try:
            super().load_wsgi()
        except SystemExit as error:
            # wsgi.py exits on invalid settings. With any other exit code than this one, Gunicorn
            # would restart the worker for ever.
            print(error, file=sys.stderr, flush=True)
            sys.exit(Arbiter.APP_LOAD_ERROR)

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        settings = self._settings
        network = network_of(client_address(addr[0])) if isinstance(addr, tuple) else ""
        limited = ClientSocket(
            client,
            settings.body_timeout,
            settings.send_timeout,
            self._patience,
            self._unread_answers,
            network,
        )
        # Behind proxies, all connections are theirs.
        most = settings.max_connections_per_address
        if not most or settings.trusted_proxies or not network:
            super().handle(listener, limited, addr)
            return
        self._connections[network] += 1
        try:
            if self._connections[network] > most:
                self._refuse(limited)
            else:
                super().handle(listener, limited, addr)
        finally:
            self._connections[network] -= 1
            if not self._connections[network]:
                del self._connections[network]

    def _patience(self) -> float:
        """How many seconds a client may be waited for that neither sends nor takes anything."""
        left = self._lifecycle.grace_left
        return max(MIN_PATIENCE, left - MIN_PATIENCE) if left > 0 else 0.0

    def handle_request(self, listener_name: Any, req: Any, sock: ClientSocket, addr: Any) -> Any:
        sock.request_begins(req)
        try:
            return super().handle_request(listener_name, req, sock, addr)
        finally:
            sock.request_ends()

    def timeout_ctx(self) -> IdleConnection:
        return IdleConnection(self._idle)

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """Answer malformed HTTP in the native envelope. None of it is logged: it may hold a key."""
        for kind, status, message in REFUSALS:
            if isinstance(exc, kind):
                self.log.warning("Refused a malformed HTTP request: %s", type(exc).__name__)
                client.sendall(_refusal(status, message))
                return
        super().handle_error(req, client, addr, exc)

    def handle_exit(self, sig: int, frame: Any) -> None:
        super().handle_exit(sig, frame)
        if getattr(self, "wsgi", None) is None:
            return  # still booting: there are no requests yet
        self._lifecycle.drain()
        # Not at once: a request that was sent before the client could know may still arrive.
        gevent.spawn_later(1.0, self._let_no_connection_wait)

    def run(self) -> None:
        gevent.spawn(self._close_idle_connections)
        super().run()

    def _let_no_connection_wait(self) -> None:
        self._longest_idle = 0.0

    def _close_idle_connections(self) -> None:
        loop = gevent.get_hub().loop
        while True:
            gevent.sleep(IDLE_CHECK_INTERVAL)
            since = time.monotonic() - self._longest_idle
            for connection in list(self._idle):
                if connection.since <= since:
                    loop.run_callback(connection.expire)

    def _refuse(self, client: ClientSocket) -> None:
        """Answer that there are too many connections from this address, and close this one."""
        self._refused += 1
        if time.monotonic() - self._refusals_logged_at >= REFUSALS_LOGGED_EVERY:
            self._refusals_logged_at = time.monotonic()
            self.log.warning(
                "Refused %d connections: an address has more than MAX_CONNECTIONS_PER_ADDRESS",
                self._refused,
            )
            self._refused = 0
        try:
            client.sendall(
                _refusal(
                    "503 Service Unavailable",
                    "There are too many connections from this address.",
                    "TooManyConnections",
                )
            )
        except OSError:
            pass  # it has gone
        finally:
            client.close()

    @cached_property
    def _unread_answers(self) -> UnreadAnswers:
        return UnreadAnswers(self._settings.max_unread_answer_bytes)

    @property
    def _settings(self) -> Settings:
        settings: Settings = self.wsgi.extensions["weir"].settings
        return settings

    @property
    def _lifecycle(self) -> Lifecycle:
        lifecycle: Lifecycle = self.wsgi.extensions["weir"].lifecycle
        return lifecycle


def _refusal(status: str, message: str, name: str = "MalformedRequest") -> bytes:
    request_id = str(uuid.uuid4())
    envelope = {
        "error": name,
        "message": message,
        "details": None,
        "path": "",
        "request_id": request_id,
    }
    body = json.dumps(envelope).encode()
    head = (
        f"HTTP/1.1 {status}\r\nConnection: close\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nX-Request-ID: {request_id}\r\n"
        "X-Content-Type-Options: nosniff\r\n\r\n"
    )
    return head.encode() + body
