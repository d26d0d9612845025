"""How a process tells workers of work: what that costs, and what it must never cost."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
import redis
from kombu.exceptions import OperationalError

from tests.support.certificates import make_certificate
from tests.support.gevent_process import GeventProcess
from tests.support.servers import REPOSITORY, Server, Valkey, wait_until
from webapp.batches.broker import ONE_RETRY, QUEUE, TASK, make_celery
from webapp.batches.doorbell import TIMEOUT, Doorbell

KEY = f"weir:broker:{QUEUE}"


@pytest.fixture(scope="module")
def gevent_process() -> Iterator[GeventProcess]:
    with GeventProcess() as process:
        yield process


def seconds_of_rings(broker: str, times: int) -> list[float]:
    """How long each ring takes, one after the other."""
    doorbell = Doorbell(broker)
    seconds = []
    for number in range(times):
        began = time.monotonic()
        doorbell.ring(f"batch_{number}")
        seconds.append(time.monotonic() - began)
    doorbell.close()
    return seconds


def seconds_of_rings_at_once(broker: str, times: int) -> list[float]:
    import gevent

    doorbell = Doorbell(broker)

    def ring() -> float:
        began = time.monotonic()
        doorbell.ring("batch_1")
        return time.monotonic() - began

    greenlets = [gevent.spawn(ring) for _ in range(times)]
    gevent.joinall(greenlets)
    doorbell.close()
    return [greenlet.value for greenlet in greenlets]


def test_a_message_is_json_and_names_the_batch(fresh_valkey: Valkey) -> None:
    with closing(Doorbell(fresh_valkey.url)) as doorbell:
        doorbell.ring("batch_1")
    with fresh_valkey.client() as client:
        [message] = [json.loads(one) for one in client.lrange(KEY, 0, -1)]
        assert {key.split(b":")[0] for key in client.scan_iter()} == {b"weir"}
    assert message["content-type"] == "application/json"
    assert message["headers"]["task"] == TASK
    assert message["headers"]["argsrepr"] == "['batch_1']"
    assert len(json.dumps(message)) < 2000


def test_many_rings_share_a_connection(gevent_process: GeventProcess, fresh_valkey: Valkey) -> None:
    with fresh_valkey.client() as client:
        connected = client.info()["connected_clients"]
        before = client.info()["total_connections_received"]
        gevent_process.run(seconds_of_rings_at_once, fresh_valkey.url, 50)
        assert client.llen(KEY) == 50
        assert client.info()["total_connections_received"] - before <= 2
        wait_until(lambda: client.info()["connected_clients"] <= connected)


@pytest.mark.parametrize("hangs", [False, True])
def test_a_broker_that_is_away_costs_its_callers_a_second_at_most_and_once(
    gevent_process: GeventProcess, fresh_valkey: Valkey, hangs: bool
) -> None:
    if hangs:
        fresh_valkey.pause()
    else:
        fresh_valkey.stop()
    one_by_one = gevent_process.run(seconds_of_rings, fresh_valkey.url, 3)
    assert max(one_by_one) < TIMEOUT + 1
    assert max(one_by_one[1:]) < 0.1
    at_once = gevent_process.run(seconds_of_rings_at_once, fresh_valkey.url, 20)
    assert max(at_once) < TIMEOUT + 1


def ring_across_a_restart(broker: str, port: int) -> int:
    """How many messages come in when the connection breaks between two rings."""
    doorbell = Doorbell(broker)
    doorbell.ring("batch_1")
    with redis.Redis(port=port) as client:
        client.client_kill_filter(_type="normal", skipme=True)
        doorbell.ring("batch_2")
        doorbell.close()
        return client.llen(KEY)


def test_a_connection_that_broke_while_idle_is_replaced(
    gevent_process: GeventProcess, fresh_valkey: Valkey
) -> None:
    assert gevent_process.run(ring_across_a_restart, fresh_valkey.url, fresh_valkey.port) == 2


def test_a_ring_outside_of_gevent_ends_too(fresh_valkey: Valkey) -> None:
    fresh_valkey.stop()
    assert max(seconds_of_rings(fresh_valkey.url, 2)) < 2 * TIMEOUT


def test_celery_is_imported_only_where_there_is_a_broker(tmp_path: Path) -> None:
    code = (
        "import sys; from webapp.batches.doorbell import Doorbell; import wsgi;"
        "Doorbell('').ring('batch_1'); Doorbell('redis://127.0.0.1:1/0');"
        "print({'celery', 'kombu', 'amqp'} & set(sys.modules))"
    )
    broker = "redis://127.0.0.1:1/0"
    environment = {"OFFLINE": "1", "REDIS_URL": broker, "DATA_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, env=environment | {"PATH": "/usr/bin"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "set()", done.stderr


class TLSFront(Server):
    """TLS in front of Valkey, with a certificate of its own making, as Heroku's."""

    def __init__(self, target: int) -> None:
        super().__init__()
        self._target = target
        self.certificate = make_certificate(self.folder, days=1)

    def _command(self) -> list[str]:
        arguments = [str(self.port), str(self._target), str(self.certificate)]
        return [sys.executable, "-m", "tests.deploy.tls_front", *arguments]

    def _process_options(self) -> dict[str, Any]:
        return {"cwd": REPOSITORY}

    def _is_ready(self) -> bool:
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            return True
        return False


@pytest.fixture
def tls(fresh_valkey: Valkey) -> Iterator[TLSFront]:
    with TLSFront(fresh_valkey.port) as front:
        yield front


def test_a_redis_certificate_is_verified_unless_the_platform_has_its_own(
    fresh_valkey: Valkey, tls: TLSFront
) -> None:
    with fresh_valkey.client() as client:
        for address, verify_certificate, messages in (
            (f"localhost:{tls.port}/0", True, 0),
            (f"localhost:{tls.port}/0", False, 1),
            (f"localhost:{tls.port}/0?ssl_ca_certs={tls.certificate}", True, 2),
            (f"127.0.0.1:{tls.port}/0?ssl_ca_certs={tls.certificate}", True, 2),
        ):
            broker = f"rediss://{address}"
            with closing(Doorbell(broker, verify_certificate=verify_certificate)) as doorbell:
                doorbell.ring("batch_1")
            assert client.llen(KEY) == messages, broker


def test_a_rabbitmq_certificate_is_verified_with_its_host(
    tls: TLSFront, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusal() -> str:
        celery = make_celery(f"amqps://127.0.0.1:{tls.port}//")
        with (
            celery.connection_for_write(connect_timeout=1) as connection,
            pytest.raises(OperationalError) as refused,
        ):
            connection.ensure_connection(**ONE_RETRY)
        return str(refused.value)

    assert "self-signed certificate" in refusal()
    monkeypatch.setenv("SSL_CERT_FILE", str(tls.certificate))
    assert "IP address mismatch" in refusal()
