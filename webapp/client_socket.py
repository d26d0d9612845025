"""A client's connection, with limits on how long it may take to send a body and to take an answer.

Without them, clients that send a byte now and then, or that read nothing, hold their connection,
their provider call and what it has reserved for ever.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import suppress
from errno import ECONNRESET, EPIPE
from typing import Any

from gunicorn import util

from webapp.unread_answers import UnreadAnswers

# Bytes a second that a body has to come at, beyond the first BODY_TIMEOUT seconds.
MIN_BODY_RATE = 16 * 1024
# While too many bytes of answers wait, one goes that is taken in such steps, or at such a rate.
MAX_STALL = 1.0  # seconds
MIN_ANSWER_RATE = 1024 * 1024  # bytes a second
# Bytes that the system takes of a stream before it is read; Linux doubles them.
STREAM_BUFFER = 16 * 1024
BUFFER = 208 * 1024
# Bytes of an answer's first part up to which it is sent together with the head.
MAX_JOINED = 64 * 1024
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


class HeadTimeout(ConnectionResetError):
    """The rest of a request's line and headers did not come in time."""

    def __init__(self) -> None:
        super().__init__(ECONNRESET, "the headers came too slowly")


class ClientStalled(BrokenPipeError):
    """A client took nothing of its answer for too long."""

    def __init__(self) -> None:
        super().__init__(EPIPE, "the client took nothing of its answer")


class ClientSocket:
    """gevent's socket of a client, limited while a body is read and an answer is sent.

    Times are in seconds. `patience` is how long a client may be waited for as things are now, which
    a shutdown changes; it is looked at every CHECK_INTERVAL. `address` is whose the answers are,
    until answer_belongs_to() says better.
    """

    def __init__(
        self,
        connection: Any,
        body_timeout: float,
        send_timeout: float,
        patience: Callable[[], float],
        unread: UnreadAnswers,
        address: str,
    ) -> None:
        self._connection = connection
        self._body_timeout = body_timeout
        self._send_timeout = send_timeout
        self._patience = patience
        self._unread = unread
        self._address = self._whose = address
        self._head_until: float | None = None
        self._body_until: float | None = None
        self._request: Any = None
        self._drops = self._given_up = self._streams = False
        self._holds = False
        self._head: Any = b""
        connection.settimeout(None)

    def request_begins(self, request: Any) -> None:
        """Limit the time that the body of a request (Gunicorn's Request) may take, from now on."""
        self._request = request
        self._holds = True
        self._head_until = None
        self._body_until = time.monotonic() + self._body_timeout

    def request_ends(self) -> None:
        """Wait for what comes next as long as the caller likes. Raises as sendall()."""
        self._holds = False
        head, self._head = self._head, b""
        if head:
            self._send_all(head)
        self._request = self._body_until = None
        self._whose = self._address
        if self._streams:
            self._streams = False
            self._set_buffer(BUFFER)

    def answer_belongs_to(self, whose: str) -> None:
        """Count the answer to this request as that of a key (or an address)."""
        self._whose = whose

    def stream_begins(self) -> None:
        """Let the system take little of a stream: of one that nobody reads, it would take 4 MB."""
        self._streams = True
        self._set_buffer(STREAM_BUFFER)

    def recv(self, size: int, flags: int = 0) -> bytes:
        """Raises HeadTimeout, BodyTimeout, and OSError."""
        if flags:
            received: bytes = self._connection.recv(size, flags)
            return received
        if self._body_until is None:
            return self._recv_head(size)
        began = time.monotonic()
        while True:
            now = time.monotonic()
            left = self._body_until - now
            # At least once: what has arrived while this process was busy is not late.
            self._connection.settimeout(max(0.0, min(left, CHECK_INTERVAL)))
            try:
                received = self._connection.recv(size)
            except (TimeoutError, BlockingIOError):
                if left <= 0 or now - began >= self._patience():
                    self._given_up = True
                    raise BodyTimeout from None
                continue
            finally:
                self._connection.settimeout(None)
            self._body_until += len(received) / MIN_BODY_RATE
            return received

    def _recv_head(self, size: int) -> bytes:
        """Wait for a request as long as the caller likes, once it has begun not for long."""
        if self._head_until is None:
            received: bytes = self._connection.recv(size)
            self._head_until = time.monotonic() + self._body_timeout
            return received
        self._connection.settimeout(max(0.0, self._head_until - time.monotonic()))
        try:
            received = self._connection.recv(size)
        except (TimeoutError, BlockingIOError):
            self._given_up = True
            raise HeadTimeout from None
        finally:
            self._connection.settimeout(None)
        return received

    def sendall(self, data: Any, flags: int = 0) -> None:
        """Send an answer's part. What is sent first, its head, waits for what comes second.

        Raises ClientStalled, and OSError.
        """
        if self._holds:
            self._holds = False
            self._head = data
            return
        head, self._head = self._head, b""
        if head and len(data) > MAX_JOINED:  # joined, it would be in memory twice
            self._send_all(head)
        else:
            data = head + data
        self._send_all(data)

    def _send_all(self, data: bytes) -> None:
        left = memoryview(data)
        began = progressed = time.monotonic()
        self._connection.settimeout(CHECK_INTERVAL)
        try:
            with self._unread.counting(self._whose, len(left)) as are_too_many:
                while left:
                    try:
                        sent = self._connection.send(left)
                    except TimeoutError:
                        sent = 0
                    now = time.monotonic()
                    if sent:
                        left, progressed = left[sent:], now
                    stalled = now - progressed
                    if stalled and stalled >= min(self._send_timeout, self._patience()):
                        raise ClientStalled
                    is_slow = stalled >= MAX_STALL or now - began > len(data) / MIN_ANSWER_RATE
                    if left and is_slow and are_too_many():
                        raise ClientStalled
        finally:
            self._connection.settimeout(None)

    def close_after_answer(self) -> None:
        """Serve no request after this one, whose body is left unread."""
        self._request.force_close()
        self._drops = True

    def close(self) -> None:
        if self._drops and not self._given_up and self._patience() > DROP_TIMEOUT:
            util.close_graceful(self._connection, DROP_TIMEOUT, MAX_DROPPED_BYTES)
        else:
            self._connection.close()

    def _set_buffer(self, size: int) -> None:
        with suppress(OSError):  # closed
            self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)
