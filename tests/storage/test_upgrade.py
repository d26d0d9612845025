"""Two versions on one database: side by side, during a rolling upgrade, and after a roll-back."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import psycopg
import pytest
import requests
from sqlalchemy import text

from tests.conftest import MakeWeir
from tests.support.administrator import SETTINGS, Administrator
from tests.support.books import PRICES, Books
from tests.support.kept_database import engine_of, load
from tests.support.next_version import REVISION, make_next_version
from tests.support.servers import Provider, Valkey, Weir, wait_until

KEPT = "0004_dashboard"
KEPT_CALLS = 79
WORKING = ("configured", "plain", "budgeted", "owned", "rotated")
GONE = ("revoked", "rotated before")
numbers = count(1)


@dataclass
class Installation:
    """A database with data of an older version, and what both versions are started with."""

    new_present: Callable[..., Weir]
    new_next: Callable[..., Weir]
    secrets: dict[str, str]
    url: str


@pytest.fixture(scope="module")
def next_version(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_next_version(tmp_path_factory.mktemp("next") / "weir")


@pytest.fixture(params=["sqlite", "postgresql"])
def installation(
    request: pytest.FixtureRequest,
    new_weir: MakeWeir,
    provider: Provider,
    fresh_valkey: Valkey,
    next_version: Path,
    tmp_path: Path,
) -> Installation:
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path}/weir.db"
    else:
        url = request.getfixturevalue("empty_database")
    secrets = load(url, KEPT)
    settings = SETTINGS | {
        "SECRET_KEY": "a-secret-of-both-versions",
        "API_KEYS": f"configured:premium:{secrets['configured']}",
        "TIERS": "premium=99999/minute;enterprise=99999/minute",
        "DATABASE_URL": url,
        "REDIS_URL": fresh_valkey.url,
        "OPENAI_BASE_URL": provider.base_url,
        "DEFAULT_MODEL": "stand-in-1",
        "MODEL_PRICES": PRICES,
        "LEDGER_RETENTION": 0,
        "WEB_CONCURRENCY": 1,
    }
    return Installation(
        lambda **more: new_weir(**settings | more),
        lambda **more: new_weir(**settings | more, root=next_version),
        secrets,
        url,
    )


def ask(weir: Weir, key: str, *, stream: bool = False) -> requests.Response:
    """A question that nobody has asked before."""
    body = {"message": f"question {next(numbers)}", "max_tokens": 12, "stream": stream}
    return weir.post("/chat", key=key, json=body)


def check_ledger(weir: Weir, calls: int) -> None:
    """Each call of then and now has one row, and all sums agree to the nano-USD."""
    books = Books(weir)
    rows = books.settled(KEPT_CALLS + calls)
    assert len(rows) == KEPT_CALLS + calls
    books.check_sums(rows)


def check_present_version_on_the_next_schema(weir: Weir) -> None:
    """A new start of the present version finds all well."""
    assert any(REVISION in line.get("message", "") for line in weir.logs())
    released = weir.run_flask_process("db", "upgrade")
    assert (released.returncode, released.stderr.count("\n")) == (0, 1), released.stderr
    assert released.stderr.startswith("Database: ")
    assert released.stdout.startswith(f"At {REVISION}, newer than")
    doctor = weir.run_flask_process("doctor", "--json")
    assert doctor.returncode == 0, doctor.stdout
    for finding in json.loads(doctor.stdout):
        if finding["check"] in {"database", "ledger"}:
            assert finding["status"] == "ok", finding
    with engine_of(weir.env["DATABASE_URL"]).connect() as connection:
        found = connection.execute(text("SELECT version_num FROM alembic_version")).scalars()
        assert list(found) == [REVISION]
    connection.engine.dispose()


class Callers:
    """They ask one after another, whichever server takes requests, until they are told to end.

    Between two questions they pause, and leave the machine to the versions that start.
    """

    PAUSE = 0.2

    def __init__(self, secrets: list[str], server: Weir) -> None:
        self.server = server
        self._ended = threading.Event()
        self._pool = ThreadPoolExecutor(len(secrets))
        self.asked = [0] * len(secrets)
        self.outcomes: Counter[str] = Counter()
        self._running = [self._pool.submit(self._ask, *one) for one in enumerate(secrets)]

    def _ask(self, caller: int, secret: str) -> None:
        while not self._ended.is_set():
            try:
                answer = ask(self.server, secret, stream=self.asked[caller] % 4 == 0)
                broken = '"error"' in answer.text
                outcome = "broken off" if broken else str(answer.status_code)
            except requests.RequestException as error:
                outcome = type(error).__name__
            self.outcomes[outcome] += 1
            self.asked[caller] += 1
            self._ended.wait(self.PAUSE)

    def go_on(self, more: int = 2) -> None:
        """Until each has asked some more: at least one of them began after this."""
        goals = [number + more for number in self.asked]
        wait_until(
            lambda: all(now >= goal for now, goal in zip(self.asked, goals, strict=True)), 60
        )

    def turn_to(self, server: Weir) -> None:
        """As a platform does once a server is ready; nobody asks the one before any more."""
        self.server = server
        self.go_on()

    def end(self) -> Counter[str]:
        self._ended.set()
        for running in self._running:
            running.result()
        self._pool.shutdown()
        return self.outcomes


@contextmanager
def asking(secrets: list[str], server: Weir) -> Iterator[Callers]:
    callers = Callers(secrets, server)
    try:
        yield callers
    finally:
        callers.end()


def test_a_rolling_upgrade_and_its_roll_back_fail_no_request_and_both_versions_share_all(
    installation: Installation,
) -> None:
    """Both versions share keys and money, and the older one comes back."""
    secrets = installation.secrets
    present = installation.new_present().start()
    following = installation.new_next()
    assert ask(present, secrets["plain"]).status_code == 200
    asking_all = [secrets[name] for name in (*WORKING, "plain", "budgeted")]
    with asking(asking_all, present) as callers:
        callers.go_on(4)  # one in four streams
        following.start()  # the next version migrates under the present one
        callers.go_on(4)
    assert set(callers.outcomes) == {"200"}, callers.outcomes
    calls = 1 + sum(callers.asked)
    assert not any(REVISION in line.get("message", "") for line in present.logs())

    calls += check_that_they_share_keys_and_money(present, following, secrets, calls)
    made_last = Administrator(following).post("/admin/keys", {"name": "last", "tier": "enterprise"})

    with asking(asking_all, present) as callers:
        callers.go_on()
        callers.turn_to(following)
        assert present.terminate() == 0
        callers.go_on(4)
        present.start()
        callers.go_on(4)
        callers.turn_to(present)
        assert following.terminate() == 0
        callers.go_on(4)
    assert set(callers.outcomes) == {"200"}, callers.outcomes
    calls += sum(callers.asked)
    for secret in (made_last.json()["secret"], *(secrets[name] for name in WORKING)):
        assert ask(present, secret).status_code == 200
    assert {ask(present, secrets[name]).status_code for name in GONE} == {403}
    check_ledger(present, calls + 1 + len(WORKING))
    check_present_version_on_the_next_schema(present)


def check_that_they_share_keys_and_money(
    present: Weir, following: Weir, secrets: dict[str, str], before: int
) -> int:
    """The keys of one are those of the other. Returns the calls that this made."""
    both = (present, following)
    for weir in both:
        assert {ask(weir, secrets[name]).status_code for name in WORKING} == {200}
        assert {ask(weir, secrets[name]).status_code for name in GONE} == {403}
    made = []
    for weir, other in (both, both[::-1]):
        admin = Administrator(weir)
        assert other.get("/admin/keys", headers=admin.headers).status_code == 200
        body = {"name": f"new {len(made)}", "tier": "enterprise", "limits": {"usd_per_day": 1}}
        made.append(admin.post("/admin/keys", body).json())
        assert ask(other, made[-1]["secret"]).status_code == 200

    def booked(number: int) -> int:
        key = (secrets["budgeted"], made[0]["secret"], made[1]["secret"])[number % 3]
        return ask(both[number % 2], key, stream=number % 5 == 0).status_code

    with ThreadPoolExecutor(12) as pool:
        assert Counter(pool.map(booked, range(90))) == {200: 90}
    check_ledger(present, before + 2 * len(WORKING) + 2 + 90)

    for weir, key in zip(both, made, strict=True):
        assert Administrator(weir).post(f"/admin/keys/{key['id']}/revoke").status_code == 200
    stopped = [(weir, key["secret"]) for weir in both for key in made]
    wait_until(lambda: {ask(*one).status_code for one in stopped} == {403}, 10, "both revocations")
    # With what was asked until the revocations were known.
    return len(Books(present).settled(0)) - KEPT_CALLS - before


@pytest.mark.parametrize("installation", ["postgresql"], indirect=True)
def test_a_migration_that_has_to_wait_holds_nobody_up(installation: Installation) -> None:
    """A lock that is waited for stands in the way of all that come after it."""
    present = installation.new_present().start()
    following = installation.new_next()
    secrets = [installation.secrets[name] for name in WORKING]
    with (
        ThreadPoolExecutor(1) as starting,
        psycopg.connect(installation.url) as backup,
        asking(secrets, present) as callers,
    ):
        # As a backup does, for as long as it takes.
        backup.execute("SELECT count(*) FROM ledger")
        started = starting.submit(following.start)
        callers.go_on()
        give_up_at = time.monotonic() + 10
        while time.monotonic() < give_up_at:
            callers.go_on()
        assert not started.done()
        backup.rollback()
        started.result()
        callers.go_on()
    assert set(callers.outcomes) == {"200"}, callers.outcomes
    assert any("lock" in line.get("message", "") for line in following.logs())
