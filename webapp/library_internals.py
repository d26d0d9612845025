"""All uses of private parts of libraries.

A new version may change them without notice: tests/test_library_internals.py tests each with the
installed library. Libraries are imported on first use, as Gunicorn's master imports this file
before gevent has patched anything.
"""

from __future__ import annotations

import math
import os
import select
import sys
import time
from bisect import bisect_left
from collections import Counter as Tally
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from email.utils import formatdate
from functools import cache, lru_cache, partial
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from flask import Flask
    from flask_limiter import Limiter
    from geventhttpclient import HTTPClient
    from geventhttpclient.response import HTTPSocketPoolResponse
    from gunicorn.http.wsgi import Response
    from gunicorn.workers.base import Worker
    from langchain_core.language_models import BaseChatModel
    from prometheus_client import Histogram
    from werkzeug.routing import Rule


def on_uncaught_in_greenlet(handler: Callable[..., None]) -> None:
    """Call `handler(hub, context, kind, error, traceback)` for errors that no greenlet caught.

    gevent 26.9: Hub.print_exception, of the hubs of all threads. Otherwise they are printed to
    stderr, not as JSON and with secrets; handle_error() does more than printing.
    """
    from gevent.hub import Hub

    Hub.print_exception = handler


@contextmanager
def hidden(package: str) -> Iterator[None]:
    """Import other libraries meanwhile as if this package was not installed.

    redis-py 8.1: observability/providers.py, which can do without. Otherwise a worker takes 3 MB
    more, and longer to start.
    """
    if package in sys.modules:
        yield
        return
    sys.modules[package] = cast(Any, None)
    try:
        yield
    finally:
        del sys.modules[package]


def wrap_connecting(client: HTTPClient, wrap: Callable[[Callable[[], Any]], Any]) -> None:
    """Wrap the function that opens connections.

    geventhttpclient 2.6: ConnectionPool._create_socket. The library does not distinguish a failed
    connection attempt from a broken connection. Otherwise a call that never reached a provider
    counts as one that may have cost money.
    """
    pool = client._connection_pool
    pool._create_socket = wrap(pool._create_socket)  # type: ignore[method-assign]


def close_idle_connections(client: HTTPClient) -> None:
    """Close the connections that no request uses.

    geventhttpclient 2.6: ConnectionPool._socket_queue. The library has no way to ask for a new
    connection. Otherwise a request that met a connection the server had closed may get another one
    of these.
    """
    idle = client._connection_pool._socket_queue
    while not idle.empty():
        idle.get(block=False).close()


def read_available(response: HTTPSocketPoolResponse) -> bytes:
    """The bytes of a body that have arrived, or the next ones; empty at its end.

    geventhttpclient 2.6: HTTPSocketResponse._body_buffer and _sock. Its read() waits for a length,
    readline() for one kind of line end. Otherwise an event waits for the next one.
    """
    while not response._body_buffer and not response.message_complete:
        sock = response._sock
        if sock is None:
            break
        try:
            response.feed(sock.recv(response.block_size))
        except BaseException:
            response.release()
            raise
    available = bytes(response._body_buffer)
    response._body_buffer.clear()
    return available


def unread_body(body: Any) -> float:
    """How many bytes of a request's body the application has left unread, as far as is known.

    Gunicorn 27.0: Body.failed, Body.reader, LengthReader.length and ChunkedReader.parser. Otherwise
    Gunicorn reads the rest of a refused body, however large, to find the next request.
    """
    if getattr(body, "failed", False):
        return math.inf
    reader = getattr(body, "reader", None)
    length: float | None = getattr(reader, "length", None)
    if length is not None:
        return length
    return math.inf if getattr(reader, "parser", None) else 0


def resolve_localhost(client: HTTPClient) -> None:
    """Let `localhost` mean 127.0.0.1 and ::1, both tried in turn (RFC 6761), as curl does.

    geventhttpclient 2.6: ConnectionPool._resolve. Otherwise it means what /etc/hosts says, which
    is often one of them only, while the server listens on the other one.
    """
    from gevent import socket

    pool = client._connection_pool
    resolve = pool._resolve

    def both() -> Any:
        found = resolve()
        families = {info[0] for info in found}
        port = found[0][4][1]
        for family, address in (
            (socket.AF_INET, ("127.0.0.1", port)),
            (socket.AF_INET6, ("::1", port, 0, 0)),
        ):
            if family not in families:
                found.append((family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", address))
        return found

    pool._resolve = both  # type: ignore[method-assign]


def poll_idle_connections(client: HTTPClient) -> None:
    """Ask the system whether an idle connection is still open, before it is used again.

    geventhttpclient 2.6: ConnectionPool._is_socket_alive. It uses gevent's select(), which lets all
    other greenlets run first, and no file above 1,023: of many connections, none was used again.
    """
    from gevent.monkey import get_original

    poll = get_original("select", "poll")

    def is_open(connection: Any) -> bool:
        if connection is None or connection.fileno() < 0:
            return False
        idle = poll()
        idle.register(connection.fileno(), select.POLLIN)
        return not idle.poll(0)  # its end, or bytes that nobody asked for

    client._connection_pool._is_socket_alive = is_open  # type: ignore[assignment, method-assign]


def observe_all(histogram: Histogram, amounts: Collection[float]) -> None:
    """As histogram.observe() of each amount, which took nearly 10 % of the CPU time of a chunk.

    prometheus-client 0.26: _sum, _buckets and _upper_bounds. Otherwise observe each.
    """
    histogram._sum.inc(sum(amounts))
    places = Tally(bisect_left(histogram._upper_bounds, amount) for amount in amounts)
    for place, times in places.items():
        histogram._buckets[place].inc(times)


def count_without_asking() -> None:
    """Let each increment of a metric neither ask for the process's id nor take one of gevent's
    locks. To be called before any metric is made, by a process that does not fork.

    prometheus-client 0.26: values.ValueClass and values.Lock. Otherwise a request takes 3 % more.
    """
    from gevent.monkey import get_original
    from prometheus_client import values

    if getattr(values.ValueClass, "_multiprocess", False):
        values.Lock = get_original("threading", "Lock")  # type: ignore[attr-defined]
        values.ValueClass = values.MultiProcessValue(repeat(os.getpid()).__next__)  # type: ignore


def do_less_for_each_request(worker: Worker) -> None:
    """Let a Gunicorn worker make once what it would make for each request: the environment that all
    have, the values of its configuration, the checks of headers' names, and each second's Date.

    Gunicorn 27.0: wsgi.base_environ, wsgi.Response.process_headers, Config.settings and
    util.http_date. Otherwise a request takes 3 % more.
    """
    from gunicorn import util
    from gunicorn.http import wsgi

    vars(worker.cfg).update({name: one.get() for name, one in worker.cfg.settings.items()})
    base_environ = wsgi.base_environ(worker.cfg)
    wsgi.base_environ = lambda _: base_environ.copy()

    @lru_cache(1)
    def http_date(second: int) -> str:
        return formatdate(second, usegmt=True)

    util.http_date = lambda: http_date(int(time.time()))
    process_headers = wsgi.Response.process_headers

    @lru_cache(1000)
    def is_plain(name: str) -> bool:
        """Whether a header of this name needs nothing but a valid value."""
        special = name.lower() in {"content-length", "upgrade"} or util.is_hoppish(name)
        return bool(wsgi.TOKEN_RE.fullmatch(name)) and not special

    def process(response: Response, headers: Sequence[tuple[str, str]]) -> None:
        for name, value in headers:
            if is_plain(name) and wsgi.HEADER_VALUE_RE.fullmatch(value):
                response.headers.append((name, value.strip(" \t")))
            else:
                process_headers(response, [(name, value)])

    wsgi.Response.process_headers = process


def metrics_file(folder: Path, kind: str, pid: int) -> Path:
    """The file in which a process counts its metrics of a kind, "counter" or "histogram".

    prometheus-client 0.26: the names of its files. Otherwise files of dead workers accumulate.
    """
    return folder / f"{kind}_{pid}.db"


def add_metrics_file(file: Path, total: Path) -> None:
    """Add the counts of one prometheus-client file to another one.

    prometheus-client 0.26: MmapedDict. Otherwise the counts of dead workers are lost, or each
    scrape reads all their files.
    """
    from prometheus_client.mmap_dict import MmapedDict

    sums: Any = MmapedDict(str(total))  # type: ignore[no-untyped-call]
    for key, value, _, _ in MmapedDict.read_all_values_from_file(str(file)):  # type: ignore[no-untyped-call]
        sums.write_value(key, sums.read_value(key)[0] + value, 0.0)
    sums.close()


def langchain_packages() -> Mapping[str, str]:
    """The import name of the package that LangChain needs for each of its providers.

    langchain 1.4: _BUILTIN_PROVIDERS. Otherwise a missing package is detected by the first
    request, not at the start.
    """
    from langchain.chat_models.base import _BUILTIN_PROVIDERS

    return {name: made[0].partition(".")[0] for name, made in _BUILTIN_PROVIDERS.items()}


def make_http_client(model: BaseChatModel) -> None:
    """Create a chat model's HTTP client now, so that its copies share it.

    langchain-anthropic 1.7: the cached property _client; others create it at once. Otherwise each
    request creates its own client and connection.
    """
    getattr(model, "_client", None)


def late_builder_rule() -> type[Rule]:
    """A URL rule that compiles what builds its URLs when it builds the first one.

    Werkzeug 3.1: Rule._compile_builder, which compile() calls twice. Otherwise each start compiles
    240 functions, of which it uses a few.
    """
    from werkzeug.routing import Rule

    class LateBuilderRule(Rule):
        def _compile_builder(self, append_unknown: bool = True) -> Callable[..., tuple[str, str]]:
            compiled = cache(partial(super()._compile_builder, append_unknown))
            return lambda rule, /, **values: compiled()(rule, **values)

    return LateBuilderRule


def take_latest_after_request(app: Flask) -> Callable[[Any], Any]:
    """Unregister the latest after_request function, and return it.

    Flask 3.1: after_request_funcs; Flask-CORS 6.0: its init_app() registers one function. Otherwise
    CORS runs for every request.
    """
    latest: Callable[[Any], Any] = app.after_request_funcs[None].pop()
    return latest


def bind_without_hooks(limiter: Limiter, app: Flask) -> None:
    """As limiter.init_app(), but without its hooks, which it omits for a known application.

    Flask-Limiter 4.1: app.extensions["limiter"]. Otherwise its hooks run for every request.
    """
    app.extensions["limiter"] = {limiter}
    limiter.init_app(app)
