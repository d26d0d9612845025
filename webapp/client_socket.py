"""A client's connection, with limits on how long it may take to send a body and to take an answer.

Without them, clients that send a byte now and then, or that read nothing, hold their connection,
their provider call and what it has reserved for ever.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from errno import ECONNRESET, EPIPE
from typing import Any

from gunicorn import util

# Bytes a second that a body has to come at, beyond the first BODY_TIMEOUT seconds.
MIN_BODY_RATE = 16 * 1024
# Seconds between two looks whether a client that is waited for must be given up.
CHECK_INTERVAL = 1.0
# Where a body is left unread, so much of it is still taken and dropped: closed with bytes waiting,
# the connection would be reset, and the answer lost with it.
MAX_DROPPED_BYTES = 32 * 1024 * 1024
DROP_TIMEOUT = 5.0


class BodyTimeout(ConnectionResetError):
    """A body did not come in time."""

    def __init__(self) -> None:
        super().__init__(ECONNRESET, "the body came too slowly")


class ClientStalled(BrokenPipeError):
    """A client took nothing of its answer for too long."""

    def __init__(self) -> None:
        super().__init__(EPIPE, "the client took nothing of its answer")


class ClientSocket:
    """gevent's socket of a client, limited while a body is read and an answer is sent.

    Times are in seconds. Once `must_end` says so, waits end within CHECK_INTERVAL.
    """

    def __init__(
        self,
        connection: Any,
        body_timeout: float,
        send_timeout: float,
        must_end: Callable[[], bool],
    ) -> None:
        self._connection = connection
        self._body_timeout = body_timeout
        self._send_timeout = send_timeout
        self._must_end = must_end
        self._body_until: float | None = None
        self._request: Any = None
        self._drops = False
        connection.settimeout(None)

    def request_begins(self, request: Any) -> None:
        """Limit the time that the body of a request (Gunicorn's Request) may take, from now on."""
        self._request = request
        self._body_until = time.monotonic() + self._body_timeout

    def request_ends(self) -> None:
        """Wait for what comes next as long as the caller likes."""
        self._request = self._body_until = None

    def recv(self, size: int, flags: int = 0) -> bytes:
        """Raises BodyTimeout, and OSError."""
        if self._body_until is None or flags:
            received: bytes = self._connection.recv(size, flags)
            return received
        while True:
            left = self._body_until - time.monotonic()
            if left <= 0 or self._must_end():
                self._drops = False
                raise BodyTimeout
            self._connection.settimeout(min(left, CHECK_INTERVAL))
            try:
                received = self._connection.recv(size)
            except TimeoutError:
                continue
            finally:
                self._connection.settimeout(None)
            self._body_until += len(received) / MIN_BODY_RATE
            return received

    def sendall(self, data: Any, flags: int = 0) -> None:
        """Raises ClientStalled, and OSError."""
        left = memoryview(data)
        began = time.monotonic()
        self._connection.settimeout(CHECK_INTERVAL)
        try:
            while left:
                try:
                    sent = self._connection.send(left, flags)
                except TimeoutError:
                    if time.monotonic() - began >= self._send_timeout or self._must_end():
                        raise ClientStalled from None
                    continue
                left, began = left[sent:], time.monotonic()
        finally:
            self._connection.settimeout(None)

    def close_after_answer(self) -> None:
        """Serve no request after this one, whose body is left unread."""
        self._request.force_close()
        self._drops = True

    def close(self) -> None:
        if self._drops:
            util.close_graceful(self._connection, DROP_TIMEOUT, MAX_DROPPED_BYTES)
        else:
            self._connection.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)
