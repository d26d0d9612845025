"""What a second worker brings, with PostgreSQL and Valkey.

By CPU time, as the client, the provider and the stores need cores too: a worker that waits for
others' locks, or does their work again, uses more of it for each request.
"""

from __future__ import annotations

import uuid

from benchmarks.gateways import Weir
from benchmarks.load import CONNECTIONS, put_load
from benchmarks.run import Run, warm_up
from benchmarks.table import Figure, microseconds, times
from tests.support.servers import Postgres


def workers(run: Run) -> list[Figure]:
    """Uncached calls of one worker and of two, with as many connections for each."""
    gateway, costs = Weir(run), {}
    with Postgres() as postgres:
        for count in (1, 2):
            url = postgres.create_database(f"workers_{uuid.uuid4().hex[:8]}")
            with run.weir(workers=count, settings={"DATABASE_URL": url}) as weir:
                warm_up(lambda weir=weir: gateway.ask(weir))
                before = weir.cpu_seconds()
                load = put_load(gateway.ask(weir), run.seconds, count * CONNECTIONS)
                costs[count] = (weir.cpu_seconds() - before) / load.answered * 1e6
    return [
        Figure("uncached call on PostgreSQL, 1 worker, CPU", costs[1], microseconds),
        Figure("uncached call on PostgreSQL, 2 workers, CPU", costs[2], microseconds),
        Figure("2 workers / 1 worker, by CPU time", 2 * costs[1] / costs[2], times, least=1.85),
    ]
