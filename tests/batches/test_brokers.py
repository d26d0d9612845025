"""The doorbell and `flask worker` with Valkey, RabbitMQ and SQS (as moto imitates it)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from tests.batches.conftest import AT_ONCE, StartWorker, ring
from tests.support.moto import Moto
from tests.support.rabbitmq import RabbitMQ
from tests.support.servers import Server, Valkey, wait_until
from tests.support.worker_process import Lines, WorkerProcess
from webapp.batches.broker import QUEUE

AWAY, BACK = "The broker is unavailable", "The broker is available again"
SOON = 15.0  # seconds in which a worker has found out that its broker is away, or back


@dataclass
class Broker:
    url: str
    server: Server
    environment: dict[str, str] = field(default_factory=dict)


@pytest.fixture(params=["valkey", "rabbitmq", "sqs"])
def broker(
    request: pytest.FixtureRequest, valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Broker]:
    if request.param == "valkey":
        yield Broker(valkey.url, valkey)
        return
    if request.param == "rabbitmq" and RabbitMQ.program is None:
        pytest.skip("RabbitMQ is not installed (apt-get install rabbitmq-server)")
    server = RabbitMQ() if request.param == "rabbitmq" else Moto()
    with server:
        environment = {}
        if isinstance(server, Moto):
            environment = server.environment
            for name, value in environment.items():
                monkeypatch.setenv(name, value)
        yield Broker("sqs://" if isinstance(server, Moto) else server.url, server, environment)


def test_a_worker_works_with_its_broker_and_while_it_is_away(
    start_worker: StartWorker, lines: Lines, broker: Broker
) -> None:
    worker = start_worker(BROKER_URL=broker.url, **broker.environment)
    wait_until(lambda: lines.runs() == 1)
    lines.add("there")
    ring(broker.url)
    wait_until(lambda: "there" in lines.names("done"), AT_ONCE)
    if isinstance(broker.server, Moto):
        [url] = broker.server.client("sqs").list_queues()["QueueUrls"]
        assert url.endswith(f"/{QUEUE}")

    broker.server.stop()
    wait_until(lambda: told(worker) == [AWAY], SOON)
    lines.add("away")
    wait_until(lambda: "away" in lines.names("done"), AT_ONCE)

    broker.server.start()
    wait_until(lambda: told(worker) == [AWAY, BACK], SOON)
    # After one more look it looks every 10 s only.
    before = lines.runs()
    wait_until(lambda: lines.runs() > before)
    lines.add("there again")
    ring(broker.url)
    wait_until(lambda: "there again" in lines.names("done"), AT_ONCE)


def told(worker: WorkerProcess) -> list[str]:
    """What it has said of its broker, without the reasons."""
    messages = [line for line in worker.messages() if line.startswith("The broker")]
    return [message.partition(" (")[0] for message in messages]
