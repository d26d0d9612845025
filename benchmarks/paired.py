"""What a setting costs each request: servers with and without it are measured in turns.

A machine's speed varies from moment to moment by more than most settings cost. So the servers share
one core, get requests in turns of a few milliseconds, and the CPU time of each is measured. Two
identical processes still differ for as long as they run, so they are restarted several times.
"""

from __future__ import annotations

import statistics
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from http.client import HTTPConnection
from itertools import count

from benchmarks.processes import Server
from benchmarks.request import NUMBER, Request, post
from benchmarks.run import QUESTION, WARM_UP, Run
from benchmarks.workplace import KEY

STARTS = 11
# Concurrent requests of a turn.
AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class Costs:
    """CPU microseconds per request of each variant, one value for each start."""

    of: Mapping[str, list[float]]

    def median(self, name: str) -> float:
        return statistics.median(self.of[name])

    def more(self, name: str, than: str) -> float:
        """The share by which a request costs more in one variant than in another."""
        pairs = zip(self.of[name], self.of[than], strict=True)
        return statistics.median(one / other for one, other in pairs) - 1


class MeasuredServer:
    """A server that gets requests in turns, on connections that stay open."""

    def __init__(self, server: Server, request: Request, stack: ExitStack) -> None:
        self._server = server
        self._request = request
        self._connections = [
            stack.enter_context(closing(HTTPConnection("127.0.0.1", server.port, timeout=30)))
            for _ in range(AT_ONCE)
        ]
        self._numbers = count()
        self.start_counting()

    def start_counting(self) -> None:
        self._answers, self._before = 0, self._server.cpu_seconds()

    def cost(self) -> float:
        """CPU microseconds per request since start_counting()."""
        return (self._server.cpu_seconds() - self._before) / self._answers * 1e6

    def turn(self) -> None:
        """Send one turn. Raises RuntimeError if a request fails, as failures have other costs."""
        request = self._request
        for connection in self._connections:
            body = request.body.replace(NUMBER, str(next(self._numbers)))
            connection.request(request.method, request.path, body, request.headers)
        for connection in self._connections:
            response = connection.getresponse()
            answer = response.read()
            if response.status >= 400:
                raise RuntimeError(f"{request.path} gave {response.status}: {answer[:300]!r}")
        self._answers += len(self._connections)


def cached_chat(weir: Server) -> Request:
    """A request whose answer comes from the cache, except for the first one."""
    return post(weir.port, "/chat", {"X-API-Key": KEY}, {"message": QUESTION})


def uncached_chat(weir: Server) -> Request:
    """A request that is different each time, so that the provider is called."""
    body = {"message": QUESTION + uuid.uuid4().hex + NUMBER}
    return post(weir.port, "/chat", {"X-API-Key": KEY}, body)


def cpu_per_request(
    run: Run,
    variants: Mapping[str, Mapping[str, str]],
    request: Callable[[Server], Request] = cached_chat,
    starts: int = STARTS,
) -> Costs:
    """Measure the request with each variant's settings, for `run.seconds` after each start."""

    def start(name: str) -> Server:
        return run.weir(f"paired-{name}", settings=variants[name])

    return costs_of(run, variants, start, request, starts)


def costs_of(
    run: Run,
    variants: Iterable[str],
    start_variant: Callable[[str], Server],
    request: Callable[[Server], Request],
    starts: int,
) -> Costs:
    """Measure the request at the server of each variant, for `run.seconds` after each start."""
    costs: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(starts):
        with ExitStack() as stack:
            servers: dict[str, MeasuredServer] = {}
            # The order alternates, so that no variant is always started first.
            for name in sorted(costs, reverse=bool(number % 2)):
                server = stack.enter_context(start_variant(name))
                servers[name] = MeasuredServer(server, request(server), stack)
            _take_turns(servers, WARM_UP)
            for measured in servers.values():
                measured.start_counting()
            _take_turns(servers, run.seconds)
            for name, measured in servers.items():
                costs[name].append(measured.cost())
    return Costs(costs)


def _take_turns(servers: Mapping[str, MeasuredServer], seconds: float) -> None:
    deadline = time.perf_counter() + seconds
    while time.perf_counter() < deadline:
        for server in servers.values():
            server.turn()
