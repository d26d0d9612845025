"""POST to a host that must be public: resolved once, connected to at the address that was checked.

It follows no redirects, uses no proxy, and reads little of the response.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Mapping, Sequence
from functools import cache
from http.client import HTTPSConnection
from typing import Any
from urllib.parse import urlsplit

import certifi
import gevent

from webapp.batches.public_addresses import is_public

HTTPS_PORT = 443
CONNECT_TIMEOUT = 3.0  # seconds, for each address
MAX_RESPONSE = 4 * 1024  # bytes that are read of a response's body

# As getaddrinfo() returns one: family, type, protocol, and the address to connect to.
Address = tuple[int, int, int, Any]


class NotPublic(OSError):
    """A host has an address that is not public."""


def post(url: str, body: bytes, headers: Mapping[str, str], timeout: float) -> int:
    """Send a POST to an https URL with port 443. Returns the status of the response.

    Raises OSError and http.client.HTTPException. `timeout` (seconds) is for all of it.
    """
    parts = urlsplit(url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    host = parts.hostname or ""
    with gevent.Timeout(timeout, TimeoutError):
        connection = _Connection(host, _resolve(host), timeout)
        try:
            connection.request("POST", target, body, dict(headers))
            response = connection.getresponse()
            response.read(MAX_RESPONSE)
            return response.status
        finally:
            connection.close()


def _resolve(host: str) -> list[Address]:
    """The addresses of a host. Raises NotPublic if any of them is not public, and OSError."""
    try:
        found = socket.getaddrinfo(host, HTTPS_PORT, type=socket.SOCK_STREAM)
    except UnicodeError:  # a label that is too long
        raise OSError(f"{host} is no name of a host") from None
    if not all(is_public(str(where[0])) for *_, where in found):
        raise NotPublic(f"{host} has an address that is not public")
    return [(family, kind, protocol, where) for family, kind, protocol, _, where in found]


class _Connection(HTTPSConnection):
    """An HTTPS connection to one of these addresses, with the certificate of the host."""

    def __init__(self, host: str, addresses: Sequence[Address], timeout: float) -> None:
        super().__init__(host, HTTPS_PORT, timeout=timeout, context=_tls())
        self._addresses = addresses

    def connect(self) -> None:
        plain = self._connect_to_any()
        try:
            plain.settimeout(self.timeout)
            self.sock = _tls().wrap_socket(plain, server_hostname=self.host)
        except BaseException:
            plain.close()
            raise

    def _connect_to_any(self) -> socket.socket:
        failure: OSError = OSError("no address")
        for family, kind, protocol, where in self._addresses:
            plain = socket.socket(family, kind, protocol)
            plain.settimeout(CONNECT_TIMEOUT)
            try:
                plain.connect(where)
            except OSError as error:
                plain.close()
                failure = error
            except BaseException:
                plain.close()
                raise
            else:
                return plain
        raise failure


@cache
def _tls() -> ssl.SSLContext:
    """Made once, as reading the authorities' certificates takes long."""
    authorities = ssl.get_default_verify_paths().cafile or certifi.where()
    return ssl.create_default_context(cafile=authorities)
