"""The libraries still are inside as Weir takes them to be, each as it is installed."""

from __future__ import annotations

import ast
import math
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gevent
import pytest
from flask import Flask
from flask_cors import CORS
from flask_limiter import Limiter
from gevent.hub import Hub
from gevent.threadpool import ThreadPool
from geventhttpclient import HTTPClient
from gunicorn import util
from gunicorn.config import Config
from gunicorn.http import RequestParser, wsgi
from gunicorn.http.errors import InvalidResponseHeader, InvalidResponseHeaderName
from langchain.chat_models import init_chat_model
from limits import RateLimitItemPerMinute
from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from werkzeug.routing import Map, Rule

from tests.support.servers import REPOSITORY, Provider, free_port
from webapp import library_internals

# Documented, in spite of their names: of SQLAlchemy's rows, named tuples and Werkzeug's proxies.
PUBLIC = {"_asdict", "_exit", "_fields", "_get_current_object", "_mapping", "_replace"}
AMOUNTS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 64.0)
# Counts in files of a folder, and prints its process id.
COUNT = f"""
import os
from prometheus_client import Counter, Histogram
from webapp.library_internals import count_without_asking, observe_all
count_without_asking()
Counter("calls", "Calls", ("of",)).labels("a").inc(2)
one_by_one, at_once = [
    Histogram(name, "Gaps", ("of",), buckets=(1, 2)).labels("a") for name in ("gaps", "more_gaps")
]
for amount in {AMOUNTS}:
    one_by_one.observe(amount)
observe_all(at_once, {AMOUNTS})
print(os.getpid())
"""


def fail() -> None:
    raise RuntimeError("uncaught")


@pytest.mark.parametrize(
    "start",
    [lambda: gevent.spawn(fail).join(), lambda: ThreadPool(1).spawn(fail).wait()],
    ids=["greenlet", "native-thread"],
)
def test_what_no_greenlet_catches_is_told(
    start: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Hub, "print_exception", Hub.print_exception)  # brought back at the end
    told: list[tuple[Any, ...]] = []
    library_internals.on_uncaught_in_greenlet(lambda *what: told.append(what))
    start()
    [(hub, _, kind, error, traceback)] = told
    assert hub is gevent.get_hub()
    assert (kind, str(error)) == (RuntimeError, "uncaught")
    assert traceback.tb_frame


def test_each_opening_of_a_connection_is_wrapped(provider: Provider) -> None:
    opened = []

    def wrap(connect: Callable[[], Any]) -> Callable[[], Any]:
        return lambda: opened.append("a connection") or connect()

    client = HTTPClient.from_url(provider.base_url)
    library_internals.wrap_connecting(client, wrap)
    for _ in range(2):  # the second on the connection of the first
        client.get("/v1/models").read()
    client.close()
    assert opened == ["a connection"]


def test_what_a_wrapped_opening_raises_is_raised_by_the_request() -> None:
    def wrap(connect: Callable[[], Any]) -> Callable[[], Any]:
        def connecting() -> Any:
            with pytest.raises(OSError, match="refused"):
                connect()
            raise LookupError

        return connecting

    client = HTTPClient("127.0.0.1", free_port())
    library_internals.wrap_connecting(client, wrap)
    with pytest.raises(LookupError):
        client.get("/")


def test_localhost_means_both_loopback_addresses() -> None:
    client = HTTPClient("localhost", 8000)
    library_internals.resolve_localhost(client)
    addresses = {info[4][:2] for info in client._connection_pool._resolve()}
    assert addresses == {("127.0.0.1", 8000), ("::1", 8000)}


def test_what_builds_urls_is_compiled_when_one_is_built() -> None:
    compiled: list[str] = []

    class Watched(Rule):
        def _compile_builder(self, append_unknown: bool = True) -> Any:
            compiled.append(self.rule)
            return super()._compile_builder(append_unknown)

    rule_class = library_internals.late_builder_rule()
    rule_class.__bases__ = (Watched,)
    rules = [rule_class("/a/<int:self>", endpoint="a"), rule_class("/b", endpoint="b")]
    built = Map(rules).bind("host")
    assert compiled == []
    for number in (1, 2):
        assert built.build("a", {"self": number, "q": "x y"}) == f"/a/{number}?q=x+y"
    assert built.match("/a/3") == ("a", {"self": 3})
    assert compiled == ["/a/<int:self>"]


def test_redis_does_without_a_package_that_is_hidden() -> None:
    code = """
import sys
from webapp.library_internals import hidden
with hidden("opentelemetry"):
    import redis
print([name for name in sys.modules if name.startswith("opentelemetry")])
import opentelemetry
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_an_idle_connection_is_asked_whether_it_is_open() -> None:
    client = HTTPClient("127.0.0.1", 8000)
    library_internals.poll_idle_connections(client)
    is_open = client._connection_pool._is_socket_alive
    ours, theirs = socket.socketpair()
    # Numbers above 1,023 are none that select() takes.
    numbers = [os.dup(0) for _ in range(1100)]
    high, other = socket.socketpair()
    for number in numbers:
        os.close(number)
    with ours, theirs, high, other:
        assert high.fileno() > 1023
        assert is_open(ours)
        assert is_open(high)
        theirs.send(b"x")
        other.close()
        assert not is_open(ours)
        assert not is_open(high)
    assert not is_open(ours)
    assert not is_open(None)


@pytest.fixture
def made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for of, name in ((util, "http_date"), (wsgi, "base_environ")):
        monkeypatch.setattr(of, name, getattr(of, name))  # brought back at the end
    monkeypatch.setattr(wsgi.Response, "process_headers", wsgi.Response.process_headers)
    library_internals.do_less_for_each_request(SimpleNamespace(cfg=Config()))


@pytest.mark.usefixtures("made_once")
def test_what_gunicorn_makes_once_is_as_before() -> None:
    assert abs(parsedate_to_datetime(util.http_date()).timestamp() - time.time()) < 2
    first, second = (wsgi.base_environ(Config()) for _ in range(2))
    assert first == second
    assert first is not second
    request = SimpleNamespace(method="GET", version=(1, 1))
    response = wsgi.Response(request, None, Config())
    response.process_headers(
        [("X-A", " 1 "), ("Content-Length", "7"), ("Connection", "close"), ("x-b", "\xe9")]
    )
    assert response.headers == [("X-A", "1"), ("Content-Length", "7"), ("x-b", "\xe9")]
    assert response.response_length == 7
    for name, value in (("X A", "1"), ("X-A", "1\r\nX-B: 2"), ("X-A:", "1"), ("X-A", "\u20ac")):
        with pytest.raises((InvalidResponseHeader, InvalidResponseHeaderName)):
            response.process_headers([(name, value)])


def test_amounts_observed_together_count_as_one_by_one() -> None:
    registries = CollectorRegistry(), CollectorRegistry()
    one_by_one, at_once = (
        Histogram("gaps", "Gaps", ("of",), buckets=(1, 2), registry=registry).labels("a")
        for registry in registries
    )
    for amount in AMOUNTS:
        one_by_one.observe(amount)
    library_internals.observe_all(at_once, AMOUNTS)
    assert samples(registries[0]) == samples(registries[1])


def samples(registry: CollectorRegistry) -> list[str]:
    """What was counted; when a metric was made is none of it."""
    lines = generate_latest(registry).decode().splitlines()
    return [line for line in lines if not line.startswith("#") and "_created" not in line]


def counted(folder: Path) -> list[str]:
    """The samples of all files of a folder."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry, str(folder))  # type: ignore[no-untyped-call]
    return samples(registry)


def count_in(folder: Path) -> int:
    """Let a process count; returns its id."""
    done = subprocess.run(
        [sys.executable, "-c", COUNT],
        cwd=REPOSITORY,
        env=os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return int(done.stdout)


def test_amounts_observed_together_reach_the_files(tmp_path: Path) -> None:
    count_in(tmp_path)
    gaps, more_gaps = (
        [line.partition("gaps")[2] for line in counted(tmp_path) if line.startswith(name)]
        for name in ("gaps", "more_gaps")
    )
    assert len(gaps) == 5
    assert gaps == more_gaps


def test_the_files_of_processes_can_be_added_up(tmp_path: Path) -> None:
    pids = [count_in(tmp_path), count_in(tmp_path)]
    together = counted(tmp_path)
    assert 'calls_total{of="a"} 4.0' in together
    for kind in ("counter", "histogram"):
        total = library_internals.metrics_file(tmp_path, kind, 0)
        for pid in pids:
            file = library_internals.metrics_file(tmp_path, kind, pid)
            library_internals.add_metrics_file(file, total)
            file.unlink()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["counter_0.db", "histogram_0.db"]
    assert sorted(counted(tmp_path)) == sorted(together)


def test_langchain_says_what_its_providers_need() -> None:
    packages = library_internals.langchain_packages()
    assert packages["anthropic"] == "langchain_anthropic"
    with pytest.raises(ValueError, match="Unsupported") as refused:
        init_chat_model("a-model", model_provider="nobody")
    assert all(name in str(refused.value) for name in packages)


def test_copies_of_a_chat_model_share_its_http_client() -> None:
    made = init_chat_model("a-model", model_provider="anthropic", api_key="none")
    library_internals.make_http_client(made)
    first, second = (made.model_copy(update={"max_tokens": number}) for number in (1, 2))
    assert "_client" in vars(first)
    assert vars(first)["_client"] is vars(second)["_client"]


def test_flask_cors_registers_one_function_for_all_its_headers() -> None:
    app = Flask(__name__)
    CORS().init_app(app, origins=["https://shop.example"], always_send=False)
    add_headers = library_internals.take_latest_after_request(app)
    assert not any(app.after_request_funcs.values())
    with app.test_request_context(headers={"Origin": "https://shop.example"}):
        response = add_headers(app.response_class())
    assert response.headers["Access-Control-Allow-Origin"] == "https://shop.example"
    app.add_url_rule("/", "home", lambda: "home")
    answer = app.test_client().get("/", headers={"Origin": "https://shop.example"})
    assert answer.status_code == 200
    assert "Access-Control-Allow-Origin" not in answer.headers


def test_flask_limiter_can_be_bound_without_hooks() -> None:
    app = Flask(__name__)
    app.config["RATELIMIT_STORAGE_URI"] = "memory://"
    limiter = Limiter(key_func=lambda: "", headers_enabled=False)
    library_internals.bind_without_hooks(limiter, app)
    for hooks in (app.before_request_funcs, app.after_request_funcs, app.teardown_request_funcs):
        assert not any(hooks.values())
    hits = [limiter.limiter.hit(RateLimitItemPerMinute(1), "somebody") for _ in range(2)]
    assert hits == [True, False]


def private_names(file: Path) -> Iterator[str]:
    """What a file uses of other objects, or imports of libraries, that is named as private.

    Methods of a parent are no such use: hooks may have such names.
    """
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Attribute):
            its_own = isinstance(node.value, ast.Name) and node.value.id in {"self", "cls"}
            parents = isinstance(node.value, ast.Call) and ast.unparse(node.value) == "super()"
            names = [] if its_own or parents else [node.attr]
        elif isinstance(node, ast.ImportFrom) and not str(node.module).startswith("webapp"):
            names = [*str(node.module).split("."), *(alias.name for alias in node.names)]
        else:
            continue
        yield from (
            f"{file.relative_to(REPOSITORY)}:{node.lineno} {name}"
            for name in names
            if name.startswith("_") and not name.endswith("__") and name not in PUBLIC
        )


def test_no_other_file_uses_what_is_private() -> None:
    files = [REPOSITORY / "gunicorn.conf.py", *sorted((REPOSITORY / "webapp").rglob("*.py"))]
    used = [name for file in files for name in private_names(file)]
    elsewhere = [name for name in used if not name.startswith("webapp/library_internals.py")]
    assert used
    assert elsewhere == []


@pytest.mark.parametrize(
    ("framing", "body", "unread"),
    [
        ("Content-Length: 10", b"0123456789", 10),
        ("Transfer-Encoding: chunked", b"a\r\n0123456789\r\n0\r\n\r\n", math.inf),
        ("Accept: */*", b"", 0),
    ],
)
def test_gunicorn_tells_what_of_a_body_was_not_read(
    framing: str, body: bytes, unread: float
) -> None:
    sent = f"POST / HTTP/1.1\r\nHost: x\r\n{framing}\r\n\r\n".encode() + body
    message = next(RequestParser(Config(), iter([sent]), ("127.0.0.1", 1)))
    assert library_internals.unread_body(message.body) == unread
    assert message.body.read() == (b"0123456789" if body else b"")
    assert library_internals.unread_body(message.body) == 0


def test_gunicorn_tells_of_a_body_that_could_not_be_read() -> None:
    sent = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nno size"
    message = next(RequestParser(Config(), iter([sent]), ("127.0.0.1", 1)))
    with pytest.raises(OSError, match="No more data"):
        message.body.read()
    assert library_internals.unread_body(message.body) == math.inf
