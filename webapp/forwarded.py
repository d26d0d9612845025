"""What trusted proxies say of a request: the client's address, scheme, host and sub-path."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

# An address in brackets, with or without a port; IPv4 with a port; or anything else.
WRITTEN = re.compile(r"\[([^]]*)\](?::\d+)?|([\d.]+):\d+|(.*)")
HOST = re.compile(r"(?:[\w.-]+|\[[0-9A-Fa-f:.]+\])(?::\d+)?", re.ASCII)
PREFIX = re.compile(r"(?:/(?!\.\.?(?:/|$))[\w.~-]+)+", re.ASCII)


class Forwarded:
    """WSGI middleware that believes the last `hops` proxies.

    Each adds to X-Forwarded-For. Of the other headers, most proxies set or pass the only value.
    Values that make no sense are ignored; without a valid address, the client has none.
    """

    def __init__(self, app: WSGIApplication, hops: int) -> None:
        self._app = app
        self._hops = hops

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if self._hops:
            self._believe(environ)
        address = client_address(environ.get("REMOTE_ADDR", ""))
        if address:
            environ["REMOTE_ADDR"] = address
        else:
            environ.pop("REMOTE_ADDR", None)
        return self._app(environ, start_response)

    def _believe(self, environ: WSGIEnvironment) -> None:
        addresses = environ.get("HTTP_X_FORWARDED_FOR", "").split(",")
        if len(addresses) >= self._hops and addresses != [""]:
            environ["REMOTE_ADDR"] = addresses[-self._hops]
        scheme = self._said(environ, "HTTP_X_FORWARDED_PROTO").lower()
        if scheme in {"http", "https"}:
            environ["wsgi.url_scheme"] = scheme
        host = self._said(environ, "HTTP_X_FORWARDED_HOST")
        if HOST.fullmatch(host):
            environ["HTTP_HOST"] = host
        prefix = self._said(environ, "HTTP_X_FORWARDED_PREFIX").rstrip("/")
        if PREFIX.fullmatch(prefix):
            environ["SCRIPT_NAME"] = prefix

    def _said(self, environ: WSGIEnvironment, name: str) -> str:
        values: list[str] = environ.get(name, "").split(",")
        return values[-min(self._hops, len(values))].strip()


@lru_cache(1_000)
def client_address(written: str) -> str | None:
    """An address as proxies and sockets write it, without port and scope; None if it is none.

    An IPv4 address that is mapped into IPv6, as on sockets for both, is that IPv4 address.
    """
    found = WRITTEN.fullmatch(written.strip())
    bare = next(filter(None, found.groups()), "") if found else ""
    try:
        address = ip_address(bare.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        return str(address.ipv4_mapped)
    return str(address)


@lru_cache(1_000)
def network_of(address: str | None) -> str:
    """Whom an address counts for: an IPv4 address, or the /64 of an IPv6 one, that anyone gets."""
    if address is None:
        return "unknown"
    parsed = ip_address(address)
    return parsed.exploded[:19] if isinstance(parsed, IPv6Address) else str(parsed)
