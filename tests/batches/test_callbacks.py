"""Callbacks of jobs: signed, sent until they are taken, and to public addresses only."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from tests.conftest import MakeWeir
from tests.support.books import Books
from tests.support.certificates import new_key, signed, with_key
from tests.support.servers import REPOSITORY, Valkey, Weir, wait_until
from tests.support.webhook import SECRET, Receiver
from webapp.batches.public_addresses import is_public

KEY = "test_key_0123456789"
HOST = "hooks.example.com"
NETWORK = REPOSITORY / "tests" / "support" / "stand_in_network"
PRIVATE = ["127.0.0.1", "10.1.2.3", "169.254.169.254", "::1", "::ffff:10.0.0.1", "64:ff9b::a00:1"]


class Internet:
    """The names and routes of the servers: see stand_in_network. All routes lead to a port here."""

    def __init__(self, folder: Path, port: int) -> None:
        self.file = folder / "network.json"
        self._log = folder / "network.json.log"
        self._port = port
        self._names: dict[str, list[list[str]]] = {}
        # Private addresses lead here as well: a callback to one would be received.
        self._routes = dict.fromkeys(PRIVATE, port)
        self.name(HOST, [self.new_address()])

    def new_address(self) -> str:
        """A public address that no other name has."""
        address = f"93.184.215.{len(self._routes)}"
        self._routes[address] = self._port
        return address

    def name(self, host: str, *answers: list[str]) -> None:
        """Let the lookups of a name have these answers in turn."""
        self._names[host] = list(answers)
        self.file.write_text(json.dumps({"names": self._names, "routes": self._routes}))

    def seen(self, host: str) -> list[str]:
        """The lookups of a name, and the connections to its addresses."""
        addresses = {address for answer in self._names[host] for address in answer}
        of_host = {f"lookup {host}", *(f"connect {address}" for address in addresses)}
        return [line for line in self._log.read_text().splitlines() if line in of_host]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("callbacks")


@pytest.fixture(scope="module")
def shared_receiver(folder: Path) -> Iterator[Receiver]:
    """It has a certificate for the names of the tests, of an authority of the tests."""
    authority_key, key = new_key(), new_key()
    authority = signed("tests", authority_key, "tests", authority_key, ca=True, days=2)
    names = [HOST, "*.example.com"]
    certificate = signed("receiver", key, "tests", authority_key, names=names, days=2)
    (folder / "authority.pem").write_bytes(with_key(authority, authority_key))
    (folder / "receiver.pem").write_bytes(with_key(certificate, key))
    with Receiver(folder / "receiver.pem") as receiver:
        yield receiver


@pytest.fixture
def receiver(shared_receiver: Receiver) -> Receiver:
    shared_receiver.received.clear()
    shared_receiver.statuses.clear()
    shared_receiver.location, shared_receiver.padding = "", 0
    return shared_receiver


@pytest.fixture(scope="module")
def internet(folder: Path, shared_receiver: Receiver) -> Internet:
    return Internet(folder, shared_receiver.port)


@pytest.fixture(scope="module")
def weirs(
    start_shared_weir: MakeWeir,
    folder: Path,
    internet: Internet,
    fresh_shared_valkey: Valkey,
    fresh_shared_database: str,
) -> list[Weir]:
    """Two Weirs that share their stores. (Claims on SQLite: tests/metering/test_alerts.py.)"""
    settings: dict[str, Any] = {
        "API_KEYS": f"test:enterprise:{KEY}",
        "TIERS": "enterprise=99999/minute",
        "CALLBACK_HOSTS": f"{HOST},*.example.com",
        "CALLBACK_SECRET": SECRET,
        "PYTHONPATH": NETWORK,
        "NETWORK_FILE": internet.file,
        "SSL_CERT_FILE": folder / "authority.pem",
        # Proxies of the environment are not for callbacks.
        "HTTPS_PROXY": "http://127.0.0.1:9",
        "LOCAL_MODEL": "off",
        "DATABASE_URL": fresh_shared_database,
        "REDIS_URL": fresh_shared_valkey.url,
    }
    return [start_shared_weir(**settings) for _ in range(2)]


def create(weir: Weir, url: str) -> str:
    headers = {"Prefer": "respond-async", "X-Weir-Callback": url}
    answer = weir.post("/predict", key=KEY, json={"features": [1, 2, 3]}, headers=headers)
    assert answer.status_code == 202, answer.text
    job_id: str = answer.json()["id"]
    return job_id


def row_of(weir: Weir, job_id: str) -> dict[str, Any]:
    [row] = Books(weir).rows(
        "SELECT callback_attempts AS attempts, callback_due_at AS due_at, "
        "callback_due_at - completed_at AS pause, state "
        f"FROM batches WHERE id = '{job_id}'"
    )
    return row


def has_failed_once(weir: Weir, job_id: str) -> bool:
    """Whether it was sent once, and waits for a second time: the claim itself is longer."""
    row = row_of(weir, job_id)
    return row["attempts"] == 1 and row["pause"] is not None and row["pause"] < 50


def is_delivered(weir: Weir, job_id: str) -> bool:
    row = row_of(weir, job_id)
    return row["state"] == "completed" and row["due_at"] is None


def let_it_be_due(weir: Weir, job_id: str) -> None:
    due = f"UPDATE batches SET callback_due_at = created_at WHERE id = '{job_id}'"
    engine = Books(weir).engine
    with engine.begin() as connection:
        connection.execute(text(due))
    engine.dispose()


def received(receiver: Receiver, job_id: str) -> list[dict[str, Any]]:
    """What the receiver was told of a job; those of earlier tests are sent again meanwhile."""
    return [event for event_id, event in receiver.received if event_id == job_id]


def test_the_receiver_is_told_once_that_a_job_has_ended(
    weirs: list[Weir], receiver: Receiver
) -> None:
    jobs = [create(weirs[number % 2], f"https://{HOST}/hook?x=1") for number in range(6)]
    wait_until(lambda: all(is_delivered(weirs[0], job) for job in jobs), 20)
    for job in jobs:
        [event] = received(receiver, job)
        assert event["type"] == "job.completed"
        assert event["data"] == {"id": job, "status": "completed", "status_code": 200}
    assert weirs[0].get(f"/jobs/{jobs[0]}", key=KEY).json()["response"]["request_id"] == jobs[0]


def test_a_callback_that_was_not_taken_is_sent_again(weirs: list[Weir], receiver: Receiver) -> None:
    receiver.statuses = [503]
    job = create(weirs[0], f"https://{HOST}/hook")
    wait_until(lambda: has_failed_once(weirs[0], job), 20)
    let_it_be_due(weirs[0], job)
    wait_until(lambda: is_delivered(weirs[0], job), 20)
    assert len(received(receiver, job)) == 2


def test_a_receiver_that_is_down_is_told_when_it_is_back(
    weirs: list[Weir], receiver: Receiver, internet: Internet
) -> None:
    internet.name("down.example.com", ["93.184.216.1"])  # no route leads there
    job = create(weirs[0], "https://down.example.com/hook")
    wait_until(lambda: has_failed_once(weirs[0], job), 20)
    assert received(receiver, job) == []
    internet.name("down.example.com", [internet.new_address()])
    let_it_be_due(weirs[0], job)
    wait_until(lambda: is_delivered(weirs[0], job), 20)
    assert len(received(receiver, job)) == 1


def test_a_redirect_is_not_followed_and_a_long_answer_not_read(
    weirs: list[Weir], receiver: Receiver, internet: Internet
) -> None:
    receiver.statuses, receiver.location = [307], f"https://{HOST}/elsewhere"
    receiver.padding = 64 * 1024 * 1024
    job = create(weirs[0], f"https://{HOST}/hook")
    wait_until(lambda: has_failed_once(weirs[0], job), 20)
    assert len(received(receiver, job)) == 1


def test_a_name_with_a_private_address_is_told_nothing(
    weirs: list[Weir], receiver: Receiver, internet: Internet
) -> None:
    hosts = [f"private-{number}.example.com" for number in range(len(PRIVATE))]
    for host, address in zip(hosts, PRIVATE, strict=True):
        internet.name(host, [internet.new_address(), address])
    jobs = [create(weirs[0], f"https://{host}/hook") for host in hosts]
    wait_until(lambda: all(has_failed_once(weirs[0], job) for job in jobs), 20)
    for host, job in zip(hosts, jobs, strict=True):
        assert set(internet.seen(host)) == {f"lookup {host}"}, "it was connected to"
        assert received(receiver, job) == []


def test_the_address_that_was_checked_is_the_one_that_is_connected_to(
    weirs: list[Weir], receiver: Receiver, internet: Internet
) -> None:
    host, address = "rebinds.example.com", internet.new_address()
    internet.name(host, [address], ["127.0.0.1"])
    job = create(weirs[0], f"https://{host}/hook")
    wait_until(lambda: received(receiver, job), 20)
    assert internet.seen(host) == [f"lookup {host}", f"connect {address}"]


def test_a_certificate_for_another_name_is_refused(
    weirs: list[Weir], receiver: Receiver, internet: Internet
) -> None:
    internet.name("not.covered.example.com", [internet.new_address()])
    job = create(weirs[0], "https://not.covered.example.com/hook")
    wait_until(lambda: has_failed_once(weirs[0], job), 20)
    assert received(receiver, job) == []


@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.example.com/hook",
        "https://other.example.org/hook",
        "https://example.com/hook",
        "https://hooks.example.com.evil.org/hook",
        "https://user:secret@hooks.example.com/hook",
        "https://evil.org\\@hooks.example.com/hook",
        "https://hooks.example.com/hook#part",
        "https://hooks.example.com:8443/hook",
        "https://hooks.example.com:99999/hook",
        "https://evil.org\\.example.com/hook",
        "https://evil.org%2f.example.com/hook",
        "https://127.0.0.1/hook",
        "https://2130706433/hook",
        "https://0x7f000001/hook",
        "https://[::1]/hook",
        "https:///hook",
        "hooks.example.com",
        "",
        f"https://hooks.example.com/{'x' * 2048}",
    ],
)
def test_a_url_that_is_not_allowed_is_refused_by_the_header_s_name(
    weirs: list[Weir], url: str
) -> None:
    headers = {"Prefer": "respond-async", "X-Weir-Callback": url}
    answer = weirs[0].post("/predict", key=KEY, json={"features": [1]}, headers=headers)
    assert (answer.status_code, list(answer.json()["details"])) == (422, ["X-Weir-Callback"])


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.215.14", True),
        ("2606:4700:4700::1111", True),
        ("64:ff9b::5db8:d70e", True),  # DNS64 of 93.184.215.14
        ("::ffff:93.184.215.14", True),
        ("127.0.0.1", False),
        ("0.0.0.0", False),
        ("10.0.0.1", False),
        ("172.16.0.1", False),
        ("192.168.0.1", False),
        ("100.64.0.1", False),
        ("169.254.169.254", False),
        ("192.0.2.1", False),
        ("198.18.0.1", False),
        ("224.0.0.1", False),
        ("240.0.0.1", False),
        ("255.255.255.255", False),
        ("::", False),
        ("::1", False),
        ("::127.0.0.1", False),
        ("::ffff:127.0.0.1", False),
        ("64:ff9b::7f00:1", False),
        ("64:ff9b:1::5db8:d70e", False),
        ("2002:7f00:1::", False),
        ("2002:5db8:d70e::", False),
        ("2001:0:7f00:1::1", False),
        ("2001:db8::1", False),
        ("3fff::1", False),
        ("5f00::1", False),
        ("100:0:0:1::1", False),
        ("fc00::1", False),
        ("fd00:ec2::254", False),
        ("fe80::1", False),
        ("fe80::1%eth0", False),
        ("fec0::1", False),
        ("ff02::1", False),
    ],
)
def test_only_public_addresses_are_public(address: str, public: bool) -> None:
    assert is_public(address) is public
