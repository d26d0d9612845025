"""A rolling update as Kubernetes makes one: pods, a Service before them, clients that count.

What is Kubernetes's here is the order of events. A pod that is deleted leaves the Service a moment
later; at the same time its preStop begins, then comes SIGTERM, and SIGKILL once the grace period
since its deletion is over. A new pod joins when /readiness answers 200. The Service chooses a pod
for each new connection; connections that exist go on, as kube-proxy leaves them.
"""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from types import TracebackType
from typing import Self

import requests

from tests.support.books import PRICES
from tests.support.servers import Weir

KEY = "test_key_0123456789"
SETTINGS: dict[str, object] = {
    "SECRET_KEY": "a-secret-of-both-versions",
    "API_KEYS": f"test:enterprise:{KEY}",
    "TIERS": "enterprise=99999/minute",
    "MODEL_PRICES": PRICES,
    "DEFAULT_MODEL": "stand-in-1",
    "WEB_CONCURRENCY": 1,
}
PAUSE = (0.05, 0.3)  # seconds between two requests of a client
numbers = count(1)


class Service:
    """Passes connections on to one of the pods that are its endpoints."""

    def __init__(self) -> None:
        self.endpoints: set[int] = set()
        self._loop = asyncio.new_event_loop()
        self._server = self._loop.run_until_complete(
            asyncio.start_server(self._pass_on, "127.0.0.1", 0, backlog=1024)
        )
        self.port = int(self._server.sockets[0].getsockname()[1])
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    async def _pass_on(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        port = random.choice([*self.endpoints, *([] if self.endpoints else [1])])
        try:
            pod, to_pod = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            to_client.transport.abort()
            return
        await asyncio.gather(_copy(client, to_pod), _copy(pod, to_client))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    try:
        while data := await source.read(65536):
            target.write(data)
            await target.drain()
    except OSError:
        target.transport.abort()
    finally:
        target.close()


@dataclass
class Rules:
    """How pods are ended, in seconds."""

    pre_stop: float
    leaves_after: float
    """From its deletion until the Service knows of it."""
    termination_grace: float


@dataclass
class Ended:
    """How a pod ended: its exit code (None: it was killed), and the seconds since its deletion."""

    exit_code: int | None
    seconds: float


@dataclass
class Deployment:
    """Pods of one version after another behind a Service."""

    service: Service
    rules: Rules
    pods: list[Weir] = field(default_factory=list)
    _deleting: list[Future[Ended]] = field(default_factory=list)
    _pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(16))

    def add(self, pod: Weir) -> None:
        """Start a pod; it takes requests once it is ready."""
        self.pods.append(pod.start())
        self.service.endpoints.add(pod.port)

    def roll_to(self, new_pod: Callable[[], Weir]) -> None:
        """Replace the pods one by one: maxSurge 1, maxUnavailable 0. Waits for no pod to end."""
        for old in list(self.pods):
            self.add(new_pod())
            self.pods.remove(old)
            self._deleting.append(self._pool.submit(self._delete, old))

    def ended(self) -> list[Ended]:
        """How the replaced pods ended, once all have."""
        return [one.result() for one in self._deleting]

    def _delete(self, pod: Weir) -> Ended:
        deleted_at = time.monotonic()
        leaves = threading.Timer(
            self.rules.leaves_after, self.service.endpoints.discard, [pod.port]
        )
        leaves.start()
        if self.rules.leaves_after < self.rules.pre_stop:
            # From when the Service knows: a machine that stalls must not turn the two around.
            leaves.join()
            time.sleep(self.rules.pre_stop - self.rules.leaves_after)
        else:
            time.sleep(self.rules.pre_stop)
        exit_code = None
        with suppress(subprocess.TimeoutExpired):
            exit_code = pod.terminate(self.rules.termination_grace - self.rules.pre_stop)
        leaves.join()
        return Ended(exit_code, time.monotonic() - deleted_at)


class Clients:
    """They ask one after another, until they are told to end, and count how each answer ended.

    Of each three, one opens a connection for each request, one keeps its connection, and one reads
    streams; no two ask the same.
    """

    def __init__(self, port: int, number: int, stream_seconds: Sequence[float]) -> None:
        self._url = f"http://127.0.0.1:{port}"
        self._stream_seconds = stream_seconds
        self._over = threading.Event()
        self._pool = ThreadPoolExecutor(number)
        self.outcomes: Counter[tuple[str, str]] = Counter()
        self._asked = [0] * number
        self._running = [self._pool.submit(self._ask_on, client) for client in range(number)]

    @property
    def lost(self) -> Counter[tuple[str, str]]:
        """What was not answered whole with 200."""
        return Counter({one: times for one, times in self.outcomes.items() if one[1] != "200"})

    def _ask_on(self, client: int) -> None:
        kind = ("connection each", "kept connection", "stream")[client % 3]
        with requests.Session() as session:
            session.trust_env = False
            session.headers["X-API-Key"] = KEY
            if kind != "kept connection":
                session.headers["Connection"] = "close"
            while not self._over.is_set():
                try:
                    outcome = self._ask(session, kind)
                except requests.RequestException as error:
                    outcome = type(error).__name__
                self.outcomes[kind, outcome] += 1
                self._asked[client] += 1
                self._over.wait(random.uniform(*PAUSE))

    def _ask(self, session: requests.Session, kind: str) -> str:
        number = next(numbers)
        body: dict[str, object] = {"message": f"question {number}", "max_tokens": 12}
        if kind == "stream":
            lasts = self._stream_seconds[number % len(self._stream_seconds)]
            body["message"] = f"question {number} [[fault:gap={lasts / 10:.3f},pieces=10]]"
            body["stream"] = True
        answer = session.post(f"{self._url}/chat", json=body, timeout=90)
        if answer.status_code != 200:
            return str(answer.status_code)
        if kind != "stream":
            return "200" if answer.json()["response"] else "empty"
        events = [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
        if not events or events[-1] != "[DONE]":
            return "cut"
        last = json.loads(events[-2])
        return "200" if last.get("done") else f"error event: {last['error']['error']}"

    def go_on(self, more: int = 2) -> None:
        """Until each has asked some more: at least one of them began after this."""
        goals = [asked + more for asked in self._asked]
        while any(now < goal for now, goal in zip(self._asked, goals, strict=True)):
            time.sleep(0.02)

    def end(self) -> None:
        self._over.set()
        for running in self._running:
            running.result()
        self._pool.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()
