"""What Weir uses of libraries beyond what they promise, and nowhere else.

A new version may change any of it without a word: tests/test_library_internals.py has a test of
each, on the library that is installed. Libraries are imported with their first use, as Gunicorn's
master imports this file before gevent has patched anything.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter as Tally
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flask import Flask
    from flask_limiter import Limiter
    from geventhttpclient import HTTPClient
    from langchain_core.language_models import BaseChatModel
    from prometheus_client import Histogram


def on_uncaught_in_greenlet(handler: Callable[..., None]) -> None:
    """Let `handler(hub, context, kind, error, traceback)` tell of what no greenlet caught.

    gevent 26.9: Hub.print_exception, of the hubs of all threads. Else it is printed on stderr, not
    as JSON and with its secrets; handle_error() could be replaced, but does more than to print.
    """
    from gevent.hub import Hub

    Hub.print_exception = handler


def wrap_connecting(client: HTTPClient, wrap: Callable[[Callable[[], Any]], Any]) -> None:
    """Let `wrap` stand around each opening of a connection.

    geventhttpclient 2.6: ConnectionPool._create_socket. The library does not tell a connection that
    was not made from one that broke. Else a call that never reached a provider counts as one that
    may have cost money.
    """
    pool = client._connection_pool
    pool._create_socket = wrap(pool._create_socket)  # type: ignore[method-assign]


def observe_all(histogram: Histogram, amounts: Collection[float]) -> None:
    """As histogram.observe() of each: one by one was nearly a tenth of a chunk's way through Weir.

    prometheus-client 0.26: _sum, _buckets and _upper_bounds. Else observe each.
    """
    histogram._sum.inc(sum(amounts))
    places = Tally(bisect_left(histogram._upper_bounds, amount) for amount in amounts)
    for place, times in places.items():
        histogram._buckets[place].inc(times)


def metrics_file(folder: Path, kind: str, pid: int) -> Path:
    """Where a process counts its metrics of a kind, "counter" or "histogram".

    prometheus-client 0.26: the names of its files. Else those of workers that are gone stay.
    """
    return folder / f"{kind}_{pid}.db"


def add_metrics_file(file: Path, total: Path) -> None:
    """Add what is counted in a file of prometheus-client's to another one.

    prometheus-client 0.26: MmapedDict. Else what workers that are gone have counted is lost, or is
    read file by file with each scrape.
    """
    from prometheus_client.mmap_dict import MmapedDict

    sums: Any = MmapedDict(str(total))  # type: ignore[no-untyped-call]
    for key, value, _, _ in MmapedDict.read_all_values_from_file(str(file)):  # type: ignore[no-untyped-call]
        sums.write_value(key, sums.read_value(key)[0] + value, 0.0)
    sums.close()


def langchain_packages() -> Mapping[str, str]:
    """The package that LangChain needs for each of its providers, as it is imported.

    langchain 1.4: _BUILTIN_PROVIDERS. Else a package that is missing is found out with the first
    request, not at the start.
    """
    from langchain.chat_models.base import _BUILTIN_PROVIDERS

    return {name: made[0].partition(".")[0] for name, made in _BUILTIN_PROVIDERS.items()}


def make_http_client(model: BaseChatModel) -> None:
    """Let a chat model make its HTTP client now, which its copies then share.

    langchain-anthropic 1.7: the cached property _client; others make theirs at once. Else each
    request makes a client and a connection of its own.
    """
    getattr(model, "_client", None)


def take_latest_after_request(app: Flask) -> Callable[[Any], Any]:
    """The function that was last registered to run after requests, which no longer does.

    Flask 3.1: after_request_funcs; Flask-CORS 6.0: its init_app() registers one function. Else the
    headers for browsers cost every request.
    """
    latest: Callable[[Any], Any] = app.after_request_funcs[None].pop()
    return latest


def bind_without_hooks(limiter: Limiter, app: Flask) -> None:
    """As limiter.init_app(), which leaves its hooks out where the application knows it already.

    Flask-Limiter 4.1: app.extensions["limiter"]. Else they cost every request.
    """
    app.extensions["limiter"] = {limiter}
    limiter.init_app(app)
