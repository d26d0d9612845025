"""What must not cost money or make a key invalid: workers, stores, clocks that fail under load."""

from __future__ import annotations

import os
import signal
import sqlite3
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.conftest import MakeWeir
from tests.support.books import PRICES, Books
from tests.support.servers import REPOSITORY, Postgres, Provider, Valkey, Weir, wait_until
from webapp.metering.ledger import CALL_IDS_PER_WORKER

KEY = "test_key_0123456789"
OPENAI = "/v1/chat/completions"
SETTINGS = {
    "API_KEYS": f"test:enterprise:{KEY}",
    "TIERS": "enterprise=99999/minute",
    "TIER_ENTERPRISE": "usd_per_day=100,usd_per_session=100",
    "MODEL_PRICES": PRICES,
    "LLM_MAX_RETRIES": 0,
    "BREAKER_FAILURES": 1_000_000,
}
loads = count(1)


class Load:
    """Callers that ask one after another, each call another model, until they are told to end.

    Between two calls they pause: they would use up the machine while a test waits for something.
    """

    def __init__(self, weirs: list[Weir], callers: int, pause: float) -> None:
        self._weirs = weirs
        self._pause = pause
        self._name = f"m-{next(loads)}"
        self._ended = threading.Event()
        self._pool = ThreadPoolExecutor(callers)
        self.outcomes: Counter[str] = Counter()
        self._running = [self._pool.submit(self._ask, number) for number in range(callers)]

    def _ask(self, caller: int) -> None:
        number = 0
        while not self._ended.is_set():
            number += 1
            self.outcomes[self._outcome(caller, number)] += 1
            self._ended.wait(self._pause)

    def _outcome(self, caller: int, number: int) -> str:
        weir = self._weirs[(caller + number) % len(self._weirs)]
        body = {
            "model": f"{self._name}-{caller}-{number}",
            "messages": [{"role": "user", "content": f"call {caller} {number}"}],
            "max_tokens": 50,
            "stream": bool((caller + number) % 2),
        }
        try:
            named = {"X-Weir-Session": f"caller-{caller % 5}"}
            answer = weir.post(OPENAI, key=KEY, json=body, headers=named, timeout=20)
        except requests.RequestException as error:
            return type(error).__name__
        if answer.status_code != 200:
            return str(answer.json()["error"]["code"])
        return "broken off" if '"error"' in answer.text else "ok"

    def wait_for(self, more: int, outcome: str = "ok", timeout: float = 60.0) -> None:
        """Until so many more calls have had this outcome."""
        goal = self.outcomes[outcome] + more
        wait_until(lambda: self.outcomes[outcome] >= goal, timeout, f"{more} more {outcome}")

    def end(self) -> Counter[str]:
        self._ended.set()
        for running in self._running:
            running.result()
        self._pool.shutdown()
        return self.outcomes


@contextmanager
def load(weirs: list[Weir], callers: int = 24, pause: float = 0.2) -> Iterator[Load]:
    running = Load(weirs, callers, pause)
    try:
        yield running
    finally:
        running.end()


def invalid(outcomes: Counter[str]) -> set[str]:
    """Outcomes that call a good key bad, or Weir faulty."""
    return set(outcomes) & {"not_authenticated", "not_allowed", "internal_error"}


@pytest.fixture(scope="module")
def shared_two_weirs(
    start_shared_weir: MakeWeir,
    provider: Provider,
    fresh_shared_valkey: Valkey,
    empty_shared_database: str,
) -> list[Weir]:
    """Two replicas of two workers each, on PostgreSQL and Redis, started at once."""
    settings = SETTINGS | {
        "OPENAI_BASE_URL": provider.base_url,
        "DATABASE_URL": empty_shared_database,
        "REDIS_URL": fresh_shared_valkey.url,
        "WEB_CONCURRENCY": 2,
    }
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda _: start_shared_weir(**settings), range(2)))


@pytest.fixture
def two_weirs(shared_two_weirs: list[Weir]) -> list[Weir]:
    for weir in shared_two_weirs:
        make_as_new(weir)
    return shared_two_weirs


@pytest.fixture(scope="module")
def offset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """By how many seconds the clock of `weir` is wrong."""
    return tmp_path_factory.mktemp("clock") / "offset"


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def shared_weir(
    request: pytest.FixtureRequest,
    start_shared_weir: MakeWeir,
    provider: Provider,
    fresh_shared_valkey: Valkey,
    offset: Path,
) -> Weir:
    """One Weir with two workers, on either database."""
    settings = SETTINGS | {
        "PYTHONPATH": REPOSITORY / "tests" / "support" / "jumping_clock",
        "CLOCK_OFFSET_FILE": offset,
        "OPENAI_BASE_URL": provider.base_url,
        "REDIS_URL": fresh_shared_valkey.url,
        "WEB_CONCURRENCY": 2,
    }
    if request.param == "postgresql":
        settings |= {"DATABASE_URL": request.getfixturevalue("fresh_shared_database")}
    return start_shared_weir(**settings)


@pytest.fixture
def weir(shared_weir: Weir) -> Weir:
    make_as_new(shared_weir)
    return shared_weir


def make_as_new(weir: Weir) -> None:
    """Forget what earlier tests have spent, and their faults."""
    weir.start()
    wait_until(lambda: weir.get("/readiness").status_code == 200)
    Books(weir).forget()


# The first test here: its calls have to be the first ones.
def test_a_worker_is_one_worker_however_many_calls_come_first(
    weir: Weir, provider: Provider
) -> None:
    assert not Books(weir).rows("SELECT id FROM workers"), "nobody has called"
    provider.fault(slow=0.5)
    with load([weir], callers=30) as running:
        running.wait_for(60)
        assert len(Books(weir).rows("SELECT id FROM workers")) <= len(weir.pids())
    assert not invalid(running.end())


def test_a_worker_killed_in_the_middle_of_a_hundred_calls(weir: Weir, provider: Provider) -> None:
    provider.fault(slow=1.0, gap=0.1, pieces=10)
    with load([weir], callers=100) as running:
        wait_until(lambda: len(provider.completions()) >= 60)
        # On a busy machine one worker may have taken all that has come so far.
        wait_until(lambda: each_worker_calls(weir), 20, "a call at each worker")
        os.kill(weir.pids()[0], signal.SIGKILL)
        running.wait_for(60)
    outcomes = running.end()
    assert not invalid(outcomes), outcomes
    rows = Books(weir).check(provider)
    lost = [row for row in rows if row["state"] == "lost"]
    assert lost, "the killed worker's calls are settled at their ceilings"
    for row in lost:
        assert row["estimated"]
        assert row["cost_nano"] == row["ceiling_nano"]
    stats_agree(weir, rows)


def each_worker_calls(weir: Weir) -> bool:
    """Whether each worker waits for a provider."""
    calls = Books(weir).rows("SELECT id FROM ledger WHERE state = 'reserved'")
    return len({row["id"] // CALL_IDS_PER_WORKER for row in calls}) == len(weir.pids())


def freeze(process: int, weir: Weir) -> bool:
    """Stop a process, unless it holds SQLite's lock or no call: there would be nothing to sweep."""
    os.kill(process, signal.SIGSTOP)
    if each_worker_calls(weir) and not is_locked(Path(weir.data_dir) / "weir.db"):
        return True
    os.kill(process, signal.SIGCONT)
    return False


def is_locked(sqlite_file: Path) -> bool:
    if not sqlite_file.exists():
        return False
    connection = sqlite3.connect(sqlite_file, timeout=0.3, isolation_level=None)
    try:
        connection.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError:
        return True
    finally:
        connection.close()
    return False


def test_a_worker_that_only_slept_settles_its_calls_after_all(
    weir: Weir, provider: Provider
) -> None:
    provider.fault(slow=1.0)
    frozen = weir.pids()[0]
    with load([weir], callers=30, pause=1.0) as running:
        wait_until(lambda: freeze(frozen, weir), 20, "a call at each worker")
        try:
            Books(weir).wait_for("SELECT id FROM ledger WHERE state = 'lost'", 40, "a sweep")
        finally:
            os.kill(frozen, signal.SIGCONT)
        running.wait_for(30)
    assert not invalid(running.end())
    rows = Books(weir).check(provider)
    late = [row for row in rows if row["state"] == "settled" and row["estimated"]]
    assert not late, "a late settlement replaces the estimate"
    Books(weir).check_sessions(rows)


def test_a_weir_that_is_told_to_end_under_load(weir: Weir, provider: Provider) -> None:
    provider.fault(slow=0.3, gap=0.05, pieces=10)
    with load([weir], callers=40) as running:
        running.wait_for(60)
        assert weir.terminate() == 0
        weir.start()
        running.wait_for(60)
    assert not invalid(running.end())
    rows = Books(weir).check(provider)
    assert not [row for row in rows if row["state"] == "lost"], "who ends in peace leaves nothing"
    stats_agree(weir, rows)


# The last test with this Weir: it does not have a Redis and a database that know the future.
def test_a_clock_that_jumps(weir: Weir, provider: Provider, offset: Path) -> None:
    provider.fault(slow=0.3)
    with load([weir], callers=12) as running:
        running.wait_for(40)
        # Three days ahead and a month, then behind the truth, then right again.
        for days in (3, 33, -2, 0):
            offset.write_text(f"{days * 86_400}")
            running.wait_for(40)
    assert set(running.end()) == {"ok"}, running.outcomes
    rows = Books(weir).check(provider)
    assert len({str(row["day"]) for row in rows}) == 4
    assert not [row for row in rows if row["estimated"]], "nobody was taken for dead"


def test_two_replicas_start_at_once_on_an_empty_database_and_share_a_budget(
    two_weirs: list[Weir], provider: Provider
) -> None:
    with load(two_weirs) as running:
        running.wait_for(60)
    assert set(running.end()) == {"ok"}
    stats_agree(two_weirs[0], Books(two_weirs[0]).check(provider))


def test_redis_restarts_under_load(
    two_weirs: list[Weir], provider: Provider, valkey: Valkey
) -> None:
    with load(two_weirs) as running:
        running.wait_for(80)
        valkey.stop()
        running.wait_for(80)
        valkey.start()
        running.wait_for(80)
    outcomes = running.end()
    assert set(outcomes) == {"ok"}, outcomes
    stats_agree(two_weirs[0], Books(two_weirs[0]).check(provider))


def test_postgresql_restarts_under_load(
    two_weirs: list[Weir], provider: Provider, postgres: Postgres
) -> None:
    provider.fault(slow=0.2)
    with load(two_weirs) as running:
        running.wait_for(80)
        postgres.stop()
        running.wait_for(5, "store_unavailable")
        postgres.start()
        running.wait_for(80)
    assert not invalid(running.end()), running.outcomes
    stats_agree(two_weirs[0], Books(two_weirs[0]).check(provider))


def test_sqlite_takes_32_callers_at_once(start_weir: MakeWeir, provider: Provider) -> None:
    weir = start_weir(**SETTINGS, OPENAI_BASE_URL=provider.base_url)
    with load([weir], callers=32, pause=0.0) as running:
        running.wait_for(320)
    assert set(running.end()) == {"ok"}
    stats_agree(weir, Books(weir).check(provider))


def stats_agree(weir: Weir, rows: list[dict[str, Any]]) -> None:
    """What /stats and /v1/key say is what the ledger has, and so are the budgets of sessions."""
    Books(weir).check_sessions(rows)
    spent = sum(row["cost_nano"] for row in rows)

    def said() -> bool:
        stats = weir.get("/stats", key=KEY).json()
        return round(stats["cost_usd"] * 1e9) == spent

    wait_until(said, 5, f"/stats says {spent}")
    assert round(weir.get("/v1/key", key=KEY).json()["spend_usd"]["month"] * 1e9) == spent
    wait_until(lambda: weir.get("/readiness").status_code == 200)
