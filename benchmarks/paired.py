"""What a setting costs each request: servers with it and without it, turn by turn.

A machine's speed varies from moment to moment by more than most settings cost. So the servers share
one core, are asked in turns of a few milliseconds, and what each took is told by the clock of its
own CPU time. Two processes that do the same still differ, for as long as they live; so they are
started anew, several times.
"""

from __future__ import annotations

import statistics
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from http.client import HTTPConnection
from itertools import count

from benchmarks.processes import Server
from benchmarks.request import NUMBER, Request, post
from benchmarks.run import QUESTION, WARM_UP, Run
from benchmarks.workplace import KEY

STARTS = 11
# Requests of a turn, all of them under way at once.
AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class Costs:
    """CPU microseconds that a request took each variant, a figure of each start."""

    of: Mapping[str, list[float]]

    def median(self, name: str) -> float:
        return statistics.median(self.of[name])

    def more(self, name: str, than: str) -> float:
        """By which share a request costs more in one variant than in another."""
        pairs = zip(self.of[name], self.of[than], strict=True)
        return statistics.median(one / other for one, other in pairs) - 1


class Asked:
    """A server that is asked turn by turn, on connections that stay open."""

    def __init__(self, server: Server, request: Request, standing: ExitStack) -> None:
        self._server = server
        self._request = request
        self._connections = [
            standing.enter_context(closing(HTTPConnection("127.0.0.1", server.port, timeout=30)))
            for _ in range(AT_ONCE)
        ]
        self._numbers = count()
        self.start_counting()

    def start_counting(self) -> None:
        self._answers, self._before = 0, self._server.cpu_seconds()

    def cost(self) -> float:
        """CPU microseconds a request since the counting was started."""
        return (self._server.cpu_seconds() - self._before) / self._answers * 1e6

    def turn(self) -> None:
        """Raises RuntimeError where a request fails: what fails costs something else."""
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
    """A request whose answer comes from the cache, but for the first time."""
    return post(weir.port, "/chat", {"X-API-Key": KEY}, {"message": QUESTION})


def uncached_chat(weir: Server) -> Request:
    """A request that is another each time, so that the provider is asked."""
    body = {"message": QUESTION + uuid.uuid4().hex + NUMBER}
    return post(weir.port, "/chat", {"X-API-Key": KEY}, body)


def cpu_per_request(
    run: Run,
    variants: Mapping[str, Mapping[str, str]],
    request: Callable[[Server], Request] = cached_chat,
    starts: int = STARTS,
) -> Costs:
    """Measure the request on a Weir with each variant's settings: `run.seconds` of each start."""
    costs: dict[str, list[float]] = {name: [] for name in variants}
    for start in range(starts):
        with ExitStack() as standing:
            asked: dict[str, Asked] = {}
            # None is always the older one.
            for name in sorted(variants, reverse=bool(start % 2)):
                weir = standing.enter_context(run.weir(f"paired-{name}", settings=variants[name]))
                asked[name] = Asked(weir, request(weir), standing)
            _take_turns(asked, WARM_UP)
            for one in asked.values():
                one.start_counting()
            _take_turns(asked, run.seconds)
            for name, one in asked.items():
                costs[name].append(one.cost())
    return Costs(costs)


def _take_turns(asked: Mapping[str, Asked], seconds: float) -> None:
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        for one in asked.values():
            one.turn()
