"""Attacks a Weir with large answers, odd bodies and slow clients, and prints what it takes.

    python -m scripts.drills [name …]

Each drill starts a Weir of its own, with one worker, and a client beside it that only wants to be
answered. The figures asked for stand beside those found; the exit code is 1 if one is missed.
"""

from __future__ import annotations

import argparse
import json
import resource
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import requests

from tests.support.books import PRICES, Books
from tests.support.servers import Provider, Weir

ATTACKER, OTHER = "attacker_key_0123456789", "other_key_0123456789"
MEBIBYTE = 1024 * 1024
SETTINGS = {
    "API_KEYS": f"attacker:free:{ATTACKER},other:enterprise:{OTHER}",
    "TIERS": "free=99999/minute;enterprise=99999/minute",
    "TIER_FREE": "usd_per_day=1000",
    "MODEL_PRICES": PRICES,
    "DEFAULT_MODEL": "m",
    "WEB_CONCURRENCY": 1,
    "CACHE_TTL": 0,
}
Figures = list[tuple[str, float, float, str]]  # what, found, asked for at most, unit


class Bystander:
    """A client that asks again and again, and notes how long each answer took."""

    def __init__(self, weir: Weir) -> None:
        self._weir = weir
        self._ended = threading.Event()
        self.longest = 0.0
        self.statuses: Counter[int] = Counter()
        self._threads = [
            threading.Thread(target=self._ask, args=(ask,))
            for ask in (
                lambda: weir.get("/liveness", timeout=60),
                lambda: ask_calmly(weir),
            )
        ]

    def _ask(self, ask: Callable[[], object]) -> None:
        while not self._ended.wait(0.05):
            began = time.monotonic()
            status = getattr(ask(), "status_code", 0)
            self.longest = max(self.longest, time.monotonic() - began)
            self.statuses[status] += 1

    def __enter__(self) -> Bystander:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    @property
    def failed(self) -> int:
        return self.statuses.total() - self.statuses[200]


@contextmanager
def running(**settings: object) -> Iterator[Weir]:
    with Provider() as provider, Provider() as calm, ExitStack() as stack:
        # A stand-in of its own for the others: it is slow at making large answers.
        urls = {"OPENAI_BASE_URL": provider.base_url, "PROVIDER_CALM_BASE_URL": calm.base_url}
        weir = stack.enter_context(Weir(SETTINGS | urls | settings))
        for _ in range(20):
            ask_calmly(weir)
        yield weir


def ask_calmly(weir: Weir) -> requests.Response:
    body = {"message": str(time.time()), "model": "calm/m"}
    return weir.post("/chat", key=OTHER, json=body, timeout=60)


def memory(weir: Weir) -> float:
    """The memory of its worker, in MiB."""
    status = Path(f"/proc/{weir.pids()[0]}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def peak(weir: Weir) -> float:
    status = Path(f"/proc/{weir.pids()[0]}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


# -- large answers --


def plain_answers() -> Figures:
    """240 plain answers of 5 MB, one after another."""
    with running() as weir:
        for _ in range(240):
            chat(weir, "big=5000000")
        return [("memory after", memory(weir), 200, "MiB")]


def embedding_batches() -> Figures:
    """400 batches of embeddings, 100 texts of 1,536 dimensions each."""
    with running() as weir:
        for number in range(400):
            texts = [f"{number} {text}" for text in range(100)]
            body = {"model": "m", "input": texts, "dimensions": 1536}
            assert weir.post("/v1/embeddings", key=ATTACKER, json=body).status_code == 200
        return [("memory after", memory(weir), 300, "MiB")]


def streams() -> Figures:
    """200 streams of 2 MB, three times."""
    with running() as weir:
        figures: Figures = []
        for number in range(1, 4):
            with ThreadPoolExecutor(40) as pool:
                list(pool.map(lambda _: chat(weir, "big=2000000", stream=True), range(200)))
            figures.append((f"memory after round {number}", memory(weir), 300, "MiB"))
        return figures


def chat(weir: Weir, fault: str, **more: object) -> None:
    message = {"role": "user", "content": f"{time.time()} [[fault:{fault}]]"}
    body = {"messages": [message], **more}
    answer = weir.post("/v1/chat/completions", key=ATTACKER, json=body)
    assert answer.status_code == 200, answer.text


# -- odd bodies --


def odd_bodies() -> Figures:
    """20 MB of `{},{},…`, 12 at once, at /v1/explain and /v1/chat/completions."""
    body = b'{"messages": [' + b"{}," * 6_900_000 + b"{}]}"
    return _bodies(body)


def full_bodies() -> Figures:
    """As many values as a body may have, 12 at once, at the same endpoints."""
    body = b'{"messages": [{"role": "user", "content": "x"}], "x": [' + b"{}," * 99_000 + b"{}]}"
    return _bodies(body)


def bodies_of_quotes() -> Figures:
    """20 MB of quotes after too many brackets in a string, 12 at once, at the same endpoints."""
    return _bodies(b'"' + b"[" * 100_001 + b'"' * 20_000_000)


def _bodies(body: bytes) -> Figures:
    def send(path: str) -> int:
        headers = {"Content-Type": "application/json"}
        return weir.post(path, key=ATTACKER, data=body, headers=headers).status_code

    with running() as weir, Bystander(weir) as other:
        before = memory(weir)
        with ThreadPoolExecutor(12) as pool:
            for path in ("/v1/explain", "/v1/chat/completions"):
                print(f"    {path}: {dict(Counter(pool.map(send, [path] * 36)))}")
        return [
            ("longest wait of others", other.longest, 1, "s"),
            ("others that failed", other.failed, 0, ""),
            ("memory more, at the most", peak(weir) - before, 200, "MiB"),
        ]


def endless_body() -> Figures:
    """A chunked body without an end, of a key that does not exist."""
    block = b"100000\r\n" + b"x" * MEBIBYTE + b"\r\n"
    with running() as weir, connected(weir) as connection:
        connection.sendall(head("/chat", None, "no_such_key"))
        began, sent = time.monotonic(), 0
        with suppress(OSError):
            while time.monotonic() - began < 20:
                connection.sendall(block)
                sent += 1
        return [
            ("read of it", sent, 40, "MiB"),
            ("until it was closed", time.monotonic() - began, 6, "s"),
        ]


# -- slow clients --


@contextmanager
def connected(weir: Weir) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", weir.port), timeout=60) as connection:
        yield connection


def head(path: str, length: int | None, key: str = ATTACKER) -> bytes:
    framing = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    lines = (f"POST {path} HTTP/1.1", "Host: x", f"X-API-Key: {key}", framing)
    return "\r\n".join([*lines, "Content-Type: application/json", "", ""]).encode()


def half_body(connection: socket.socket, path: str = "/token") -> None:
    connection.sendall(head(path, 1000) + b"{")


def unread_stream(connection: socket.socket) -> None:
    _unread(connection, size=2_000_000, stream=True)


def unread_answer(connection: socket.socket) -> None:
    _unread(connection, size=5_000_000, stream=False)
    connection.recv(1, socket.MSG_PEEK)


def _unread(connection: socket.socket, *, size: int, stream: bool) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    message = f"{time.time()} [[fault:big={size}]]"
    body = json.dumps({"message": message, "stream": stream}).encode()
    connection.sendall(head("/chat", len(body)) + body)


class SlowClients:
    """Connections that do something once, and then send a byte every 10 s or read nothing."""

    def __init__(self, weir: Weir, connections: ExitStack) -> None:
        self._weir = weir
        self._connections = connections
        self.senders: list[socket.socket] = []
        self.readers: list[socket.socket] = []
        self._sent_at = time.monotonic()
        self._before = self._sockets() + 4  # those of the bystander

    def add(self, begin: Callable[[socket.socket], None], *, sends: bool) -> None:
        connection = self._connections.enter_context(connected(self._weir))
        with suppress(OSError):  # refused: there are too many
            begin(connection)
        (self.senders if sends else self.readers).append(connection)

    def wait_until_gone(self, timeout: float) -> float:
        """The seconds until the worker has closed all of them, as far as it has not yet."""
        began = time.monotonic()
        while (left := self._sockets() - self._before) > 0:
            if time.monotonic() - began > timeout:
                print(f"    {left} were left")
                break
            if time.monotonic() - self._sent_at > 10:
                self._sent_at = time.monotonic()
                for one in self.senders:
                    with suppress(OSError):
                        one.send(b" ")
            time.sleep(0.2)
        return time.monotonic() - began

    def _sockets(self) -> int:
        """How many connections to its clients the worker has."""
        pid = self._weir.pids()[0]
        own = set()
        for one in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):  # closed meanwhile
                own.add(one.readlink().name)
        lines = Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]
        port = f":{self._weir.port:04X}"
        return sum(
            line.split()[1].endswith(port) and f"socket:[{line.split()[9]}]" in own
            for line in lines
        )


def slow_clients() -> Figures:
    """500 bodies at a byte in 10 s, and 500 streams of 2 MB that nobody reads."""

    def add(clients: SlowClients) -> None:
        for _ in range(500):
            clients.add(half_body, sends=True)
            clients.add(unread_stream, sends=False)

    return _held(add, most_memory=100)


def unread_answers() -> Figures:
    """200 plain answers of 5 MB that nobody reads, of one key, of which 64 MiB may wait."""

    def add(clients: SlowClients) -> None:
        for _ in range(200):
            clients.add(unread_answer, sends=False)

    return _held(add, most_memory=300)


def _held(add: Callable[[SlowClients], None], most_memory: float) -> Figures:
    """What the clients hold that are added, and for how long."""
    with running() as weir, ExitStack() as connections:
        before = memory(weir)
        clients = SlowClients(weir, connections)
        with Bystander(weir) as other:
            add(clients)
            gone = clients.wait_until_gone(150)
        return [
            ("longest wait of others", other.longest, 1, "s"),
            ("others that failed", other.failed, 0, ""),
            ("memory more, at the most", peak(weir) - before, most_memory, "MiB"),
            ("until all were gone", gone, 120, "s"),
        ]


def half_bodies() -> Figures:
    """10,000 unauthenticated half bodies at /token, of one address."""
    with running() as weir, ExitStack() as connections:
        before = memory(weir)
        clients = SlowClients(weir, connections)
        # A proxy's address: others are not told from the attacker.
        with Bystander(weir) as other:
            for _ in range(1900):
                clients.add(half_body, sends=True)
            longest_before = other.longest
            gone = clients.wait_until_gone(150)
        more = SlowClients(weir, connections)
        for _ in range(10_000):
            more.add(half_body, sends=True)
        gone_too = more.wait_until_gone(150)
        with Bystander(weir) as afterwards:
            time.sleep(2)
        return [
            ("longest wait of others while 1,900 come", longest_before, 1, "s"),
            ("longest wait of others", other.longest, 1, "s"),
            ("until all were gone", gone, 120, "s"),
            ("until 10,000 were gone", gone_too, 120, "s"),
            ("others that failed afterwards", afterwards.failed, 0, ""),
            ("memory more, at the most", peak(weir) - before, 200, "MiB"),
        ]


def shutdown() -> Figures:
    """SIGTERM while 100 streams are not read and 100 bodies do not come."""
    with running(SHUTDOWN_GRACE=10) as weir, ExitStack() as connections:
        clients = SlowClients(weir, connections)
        for _ in range(100):
            clients.add(half_body, sends=True)
            clients.add(unread_stream, sends=False)
        time.sleep(3)
        began = time.monotonic()
        code = weir.terminate()
        states = Counter(row["state"] for row in Books(weir).rows())
        print(f"    {dict(states)}")
        return [
            ("exit code", code, 0, ""),
            ("seconds, of a grace of 10", time.monotonic() - began, 11, "s"),
            ("calls that were lost", states["lost"], 0, ""),
        ]


DRILLS = (
    plain_answers,
    embedding_batches,
    streams,
    odd_bodies,
    full_bodies,
    bodies_of_quotes,
    endless_body,
    slow_clients,
    unread_answers,
    half_bodies,
    shutdown,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help=", ".join(one.__name__ for one in DRILLS))
    names = parser.parse_args().names
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    missed = 0
    for drill in DRILLS:
        if names and drill.__name__ not in names:
            continue
        print(f"{drill.__name__}: {drill.__doc__}")
        for what, found, asked, unit in drill():
            missed += found > asked
            verdict = "missed" if found > asked else "ok"
            print(f"    {what}: {found:.1f} {unit} (at most {asked:g}): {verdict}", flush=True)
    sys.exit(missed > 0)


if __name__ == "__main__":
    main()
