"""Compares Weir with other gateways: the same measures, with the same upstream, in one run."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from benchmarks.gateways import Gateway, LiteLLM, NativeWeir, Portkey, Weir
from benchmarks.load import Load
from benchmarks.peers import NotInstalled
from benchmarks.processes import NotStarted, Server
from benchmarks.request import Request, post
from benchmarks.run import Run, tell, warm_up
from benchmarks.streams import streams_of
from benchmarks.table import (
    Figure,
    Format,
    Row,
    comparison,
    megabytes,
    milliseconds,
    number,
    seconds,
    times,
)
from benchmarks.upstream import MODEL
from benchmarks.workplace import KEY_WITH_BUDGET

STREAMS = 500
UNCACHED = "uncached, requests/s"
WITH_BUDGET = "uncached of a key with a budget, requests/s"
ADDED_ALONE = "uncached, p50 added at one connection"
ADDED_BY_FOUR = "uncached, p50 added at four connections"
HITS = "cache hit, requests/s"
HIT_ALONE = "cache hit, p50 at one connection"
FIRST_BYTE = f"{STREAMS} streams, first byte p50"
ROWS: dict[str, Format] = {
    UNCACHED: number,
    "uncached, p50": milliseconds,
    "uncached, p99": milliseconds,
    "uncached, failures": number,
    ADDED_ALONE: milliseconds,
    ADDED_BY_FOUR: milliseconds,
    WITH_BUDGET: number,
    HITS: number,
    "cache hit, p50": milliseconds,
    "cache hit, p99": milliseconds,
    "cache hit, failures": number,
    HIT_ALONE: milliseconds,
    FIRST_BYTE: milliseconds,
    f"{STREAMS} streams, first byte p99": milliseconds,
    f"{STREAMS} streams, failures": number,
    f"{STREAMS} streams, peak memory": megabytes,
    "memory after start": megabytes,
    "ready after, median": seconds,
}


def peers(run: Run) -> list[Figure]:
    """Add a table of all gateways to the run, and return the ratios with their targets."""
    return Comparison(run).measure()


class Comparison:
    """The gateways that can be installed, and what was measured of each."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._weir, self._litellm, self._portkey = Weir(run), LiteLLM(run), Portkey(run)
        self._gateways: list[Gateway] = [
            *(NativeWeir(run), self._weir),
            *(self._litellm, self._portkey),
        ]
        self._measured: dict[tuple[str, Gateway], float] = {}
        self._starts: dict[Gateway, list[Server]] = defaultdict(list)
        self._skipped: dict[Gateway, str] = {}
        # p50 of the upstream itself, by the number of connections.
        self._direct: dict[int, float] = {}

    def measure(self) -> list[Figure]:
        self._each("install", lambda gateway: gateway.install())
        for connections in (1, 4):
            direct = self._run.load(self._upstream_request(), connections=connections)
            self._direct[connections] = direct.p50
        # Measure by measure, so that the values that are compared are measured close in time.
        self._each("uncached", self._uncached)
        self._each("hits", self._hits)
        self._each("streams", self._streams)
        self._run.tables.append(self._table())
        return self._ratios()

    def _each(self, what: str, do: Callable[[Gateway], None]) -> None:
        """Call `do` for every gateway. Skip a peer that cannot be installed or started."""
        for gateway in self._gateways:
            if gateway in self._skipped:
                continue
            tell(f"  {what}: {gateway.name}")
            try:
                do(gateway)
            except NotInstalled as error:
                self._skipped[gateway] = f"it cannot be installed ({error})"
            except NotStarted as error:
                if not gateway.is_peer:
                    raise
                self._skipped[gateway] = f"it did not start ({error.reason})"

    @contextmanager
    def _started(self, gateway: Gateway, *, cached: bool = False) -> Iterator[Server]:
        with gateway.start(cached=cached) as server:
            self._starts[gateway].append(server)
            yield server

    def _uncached(self, gateway: Gateway) -> None:
        with self._started(gateway) as server:
            self._note(gateway, "memory after start", server.memory())
            self._note_load(gateway, "uncached", self._run.load(lambda: gateway.ask(server)))
            for name, connections in ((ADDED_ALONE, 1), (ADDED_BY_FOUR, 4)):
                load = self._run.load(lambda: gateway.ask(server), connections)
                self._note(gateway, name, load.p50 - self._direct[connections])
            if gateway.has_budgets:
                load = self._run.load(lambda: gateway.ask(server, key=KEY_WITH_BUDGET))
                self._note(gateway, WITH_BUDGET, load.per_second)

    def _hits(self, gateway: Gateway) -> None:
        if gateway.has_cache:
            with self._started(gateway, cached=True) as server:
                request = gateway.ask(server, same=True)
                self._note_load(gateway, "cache hit", self._run.load(request))
                self._note(gateway, HIT_ALONE, self._run.load(request, connections=1).p50)

    def _streams(self, gateway: Gateway) -> None:
        with self._started(gateway) as server:
            warm_up(lambda: gateway.ask(server))
            streams_of(server, gateway.ask(server, stream=True), gateway.protocol, 1)
            request = gateway.ask(server, stream=True)
            streams, peak = streams_of(server, request, gateway.protocol, STREAMS)
        self._note(gateway, FIRST_BYTE, streams.p50)
        self._note(gateway, f"{STREAMS} streams, first byte p99", streams.p99)
        self._note(gateway, f"{STREAMS} streams, failures", streams.failed)
        self._note(gateway, f"{STREAMS} streams, peak memory", peak)

    def _upstream_request(self) -> Request:
        return post(self._run.upstream.port, "/v1/chat/completions", {}, {"model": MODEL})

    def _note(self, gateway: Gateway, name: str, value: float) -> None:
        self._measured[name, gateway] = value

    def _note_load(self, gateway: Gateway, name: str, load: Load) -> None:
        self._note(gateway, f"{name}, requests/s", load.per_second)
        self._note(gateway, f"{name}, p50", load.p50)
        self._note(gateway, f"{name}, p99", load.p99)
        self._note(gateway, f"{name}, failures", load.failed)

    def _table(self) -> str:
        for gateway, servers in self._starts.items():
            ready = statistics.median(server.ready_after for server in servers)
            self._note(gateway, "ready after, median", ready)
        rows = [
            Row(name, tuple(self._measured.get((name, g)) for g in self._gateways), shown)
            for name, shown in ROWS.items()
        ]
        table = comparison((gateway.name for gateway in self._gateways), rows)
        skipped = (f"\n\n{gateway.name} skipped: {why}" for gateway, why in self._skipped.items())
        return table + "".join(skipped)

    def _ratios(self) -> list[Figure]:
        ratios = [
            self._ratio(UNCACHED, self._litellm, least=10),
            self._ratio(HITS, self._litellm, least=15),
            self._ratio(FIRST_BYTE, self._litellm, most=1 / 3),
            self._ratio(UNCACHED, self._portkey, least=0.8),
            self._ratio(WITH_BUDGET, self._portkey, least=0.65, than=UNCACHED),
        ]
        added = [
            Figure(name, self._measured[name, self._weir], milliseconds, most=most)
            for name, most in ((ADDED_ALONE, 2.5), (ADDED_BY_FOUR, 4.0), (HIT_ALONE, 1.0))
        ]
        return [*filter(None, ratios), *added]

    def _ratio(
        self,
        name: str,
        peer: Gateway,
        *,
        least: float | None = None,
        most: float | None = None,
        than: str = "",
    ) -> Figure | None:
        """The ratio in the protocol that both have; None if the peer was not measured. `than` is
        the peer's measure where it has not the same."""
        peer_value = self._measured.get((than or name, peer))
        if not peer_value:
            return None
        share = self._measured[name, self._weir] / peer_value
        return Figure(f"{name}, Weir / {peer.name}", share, times, least=least, most=most)
