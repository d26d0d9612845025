"""A rolling upgrade and its roll-back lose no request, in the order of events of Kubernetes.

`python -m scripts.rolling_update` does the same with three pods, in Kubernetes' own times.
"""

from __future__ import annotations

from pathlib import Path

from tests.conftest import MakeWeir
from tests.support.books import Books
from tests.support.next_version import REVISION, make_next_version
from tests.support.rolling_update import SETTINGS, Clients, Deployment, Rules, Service
from tests.support.servers import Provider, Valkey, Weir

# As the chart's, with a shorter preStop.
RULES = Rules(pre_stop=1.0, leaves_after=0.5, termination_grace=35)


def test_no_request_is_lost_while_pods_are_replaced_by_the_next_version_and_back(
    new_weir: MakeWeir,
    fresh_valkey: Valkey,
    fresh_database: str,
    provider: Provider,
    tmp_path: Path,
) -> None:
    stores = {"DATABASE_URL": fresh_database, "REDIS_URL": fresh_valkey.url}
    settings = SETTINGS | stores | {"OPENAI_BASE_URL": provider.base_url}
    next_version = make_next_version(tmp_path / "next")

    def present() -> Weir:
        return new_weir(**settings)

    def following() -> Weir:
        return new_weir(**settings, root=next_version)

    with Service() as service:
        deployment = Deployment(service, RULES)
        deployment.add(present())
        with Clients(service.port, 6, stream_seconds=(0.3, 1.5)) as clients:
            clients.go_on()
            deployment.roll_to(following)
            clients.go_on(1)
            assert Books(deployment.pods[0]).rows("SELECT * FROM alembic_version") == [
                {"version_num": REVISION}
            ]
            deployment.roll_to(present)
            ended = deployment.ended()
            clients.go_on(1)
    assert clients.lost == {}, clients.outcomes
    assert [pod.exit_code for pod in ended] == [0] * 2
    rows = Books(deployment.pods[0]).settled(clients.outcomes.total())
    assert len(rows) == clients.outcomes.total()
    assert {row["state"] for row in rows} == {"settled"}
