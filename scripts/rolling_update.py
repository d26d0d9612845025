"""Upgrades and rolls back a Weir of three pods as Kubernetes does, and counts what clients lose.

    python -m scripts.rolling_update

Everything runs on this machine: PostgreSQL, Valkey, a stand-in provider, Weir in two versions (the
next one has a migration more), and a Service that passes connections on. The exit code is 1 if a
request is lost with the rules of the chart, or if none is without a preStop: then it shows nothing.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from tests.support.books import Books
from tests.support.next_version import make_next_version
from tests.support.rolling_update import SETTINGS, Clients, Deployment, Rules, Service
from tests.support.servers import Postgres, Provider, Valkey, Weir

PODS = 3
CLIENTS = 12
# Seconds; the longest ends within SHUTDOWN_GRACE.
STREAMS = (1.0, 5.0, 20.0)
# A large cluster takes this long (seconds) until all its nodes know of a pod that leaves.
LEAVES_AFTER = 3.0
DRILLS = (
    ("preStop 5 s, termination grace 35 s", Rules(5, LEAVES_AFTER, 35)),
    ("no preStop, termination grace 30 s", Rules(0, LEAVES_AFTER, 30)),
)


def main() -> None:
    lost = []
    with ExitStack() as stack:
        postgres, valkey, provider = (
            stack.enter_context(one()) for one in (Postgres, Valkey, Provider)
        )
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        next_version = make_next_version(folder / "next")
        for number, (name, rules) in enumerate(DRILLS):
            settings = SETTINGS | {
                "DATABASE_URL": postgres.create_database(f"weir_{number}"),
                "REDIS_URL": valkey.url,
                "OPENAI_BASE_URL": provider.base_url,
            }
            print(f"{name}; the Service knows after {LEAVES_AFTER:g} s:", flush=True)
            present, following = partial(Weir, settings), partial(Weir, settings, root=next_version)
            lost.append(drill(rules, present, following))
    sys.exit(lost[0] > 0 or lost[1] == 0)


def drill(rules: Rules, present: Callable[[], Weir], following: Callable[[], Weir]) -> int:
    """Upgrade and roll back, and print what clients saw. Returns how many requests were lost."""
    with ExitStack() as stack:
        service = stack.enter_context(Service())

        def kept(make: Callable[[], Weir]) -> Weir:
            pod = make()
            stack.callback(pod.close)
            return pod

        deployment = Deployment(service, rules)
        for _ in range(PODS):
            deployment.add(kept(present))
        with Clients(service.port, CLIENTS, STREAMS) as clients:
            clients.go_on()
            deployment.roll_to(lambda: kept(following))
            clients.go_on(1)
            deployment.roll_to(lambda: kept(present))
            ended = deployment.ended()
            clients.go_on(1)
        for kind in sorted({kind for kind, _ in clients.outcomes}):
            outcomes = {what: n for (of, what), n in clients.outcomes.items() if of == kind}
            print(f"    {kind}: {outcomes}")
        codes, longest = [pod.exit_code for pod in ended], max(pod.seconds for pod in ended)
        print(f"    pods ended with {codes}, the last after {longest:.1f} s")
        rows = Books(deployment.pods[0]).settled(0)
        states = {row["state"] for row in rows}
        print(f"    calls in the ledger: {len(rows)}, {', '.join(sorted(states))}")
        print(f"    lost: {clients.lost.total()} of {clients.outcomes.total()}", flush=True)
        return clients.lost.total()


if __name__ == "__main__":
    main()
