"""One run: its folder, the servers that it needs, and how load is applied."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.load import CONNECTIONS, Load, put_load
from benchmarks.processes import REPOSITORY, Server
from benchmarks.request import Request
from benchmarks.workplace import Workplace

# A warm-up continues in slices while each is a tenth faster than the best before it. Servers with
# a just-in-time compiler, such as Node, need more of them.
WARM_UP = 2.0  # seconds
WARM_UP_GAIN = 1.1
WARM_UP_SLICES = 8
QUESTION = "What is a weir, and why would anyone build one across a river? Answer in a paragraph. "


@dataclass
class Run:
    """What all measures share. `tables` are printed in addition to the table of figures."""

    place: Workplace
    valkey: Server
    upstream: Server
    seconds: float
    tables: list[str] = field(default_factory=list)
    bare_per_second: float = 0.0

    def weir(
        self,
        data: str = "data",
        workers: int = 1,
        settings: Mapping[str, str] | None = None,
        code: Path = REPOSITORY,
    ) -> Server:
        return self.place.weir(self.valkey, self.upstream, data, workers, settings, code)

    def load(
        self, request: Request | Callable[[], Request], connections: int = CONNECTIONS
    ) -> Load:
        """The load after a warm-up. A callable makes a new request for each of the two."""
        make = request if callable(request) else lambda: request
        warm_up(make, connections)
        return put_load(make(), self.seconds, connections)


def warm_up(make: Callable[[], Request], connections: int = CONNECTIONS) -> None:
    """Apply load until it gets no faster."""
    best = 0.0
    for _ in range(WARM_UP_SLICES):
        per_second = put_load(make(), WARM_UP, connections).per_second
        if per_second <= best * WARM_UP_GAIN:
            return
        best = per_second


def tell(text: str) -> None:
    """Print progress on stderr."""
    print(text, file=sys.stderr, flush=True)
