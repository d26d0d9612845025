"""What batches must survive: killed workers, stopped ones, stores that go and come back."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.conftest import MakeWeir
from tests.support.batches import ENDED, BatchClient, BatchWorker, line
from tests.support.books import PRICES, Books
from tests.support.servers import Postgres, Provider, Valkey, Weir, wait_until

KEY = "test_key_0123456789"
SETTINGS = {
    "API_KEYS": f"test:enterprise:{KEY}",
    "TIERS": "enterprise=99999/minute",
    "MODEL_PRICES": PRICES,
    "CACHE_TTL": 0,
    "BREAKER_FAILURES": 1_000_000,
}

StartWorker = Callable[[], BatchWorker]


@pytest.fixture(scope="module")
def weir(
    start_shared_weir: MakeWeir,
    provider: Provider,
    fresh_shared_valkey: Valkey,
    fresh_shared_database: str,
) -> Weir:
    return start_shared_weir(
        **SETTINGS,
        REDIS_URL=fresh_shared_valkey.url,
        DATABASE_URL=fresh_shared_database,
        OPENAI_API_KEY="sk-up",
        OPENAI_BASE_URL=provider.base_url,
        WEB_CONCURRENCY=1,
    )


@pytest.fixture
def books(weir: Weir) -> Books:
    books = Books(weir)
    books.forget()
    return books


@pytest.fixture
def start_worker(weir: Weir, books: Books) -> Iterator[StartWorker]:
    """Starts workers, and waits until the serving process has seen one."""
    with ExitStack() as started:

        def start() -> BatchWorker:
            worker = started.enter_context(BatchWorker(weir))
            seen = "SELECT 1 FROM workers WHERE batch_worker_seen_at IS NOT NULL"
            books.wait_for(seen, 20, "a worker")
            return worker

        yield start


def lines(count: int) -> list[dict[str, Any]]:
    return [line(f"c{number}", f"line {number}") for number in range(count)]


def check_output(client: BatchClient, batch: Any, count: int) -> list[dict[str, Any]]:
    """Assert that each line has succeeded and is there once. Returns the output."""
    assert (batch.status, batch.request_counts.completed) == ("completed", count)
    output = client.output(batch)
    assert sorted(one["custom_id"] for one in output) == sorted(f"c{n}" for n in range(count))
    return output


def calls_by_line(provider: Provider) -> Counter[str]:
    texts = (call["body"]["messages"][-1]["content"] for call in provider.completions())
    return Counter(text.replace("line ", "c") for text in texts)


CALLED_AGAIN = """
SELECT batch_line, worker_id, attempt, state, error, reserved_at, settled_at FROM ledger
WHERE batch_line IN (
    SELECT batch_line FROM ledger GROUP BY batch_id, batch_line HAVING count(*) > 1
)
ORDER BY batch_line, reserved_at
"""


def check_called_once(provider: Provider, books: Books) -> None:
    """Assert that each line was called once; else show what the ledger has of the others."""
    again = [name for name, calls in calls_by_line(provider).items() if calls > 1]
    assert not again, (again, books.rows(CALLED_AGAIN))


def test_what_a_killed_worker_had_begun_is_done_again_and_nothing_else(
    weir: Weir, provider: Provider, books: Books, start_worker: StartWorker
) -> None:
    client, worker = BatchClient(weir, KEY), start_worker()
    provider.fault(slow=0.3)
    batch_id = client.begin(lines(500))
    client.progressed(batch_id, 20)
    # A worker whose core others want, too, has nothing in flight at times.
    wait_until(lambda: any(call["lasted"] is None for call in provider.completions()), 20)
    worker.kill()
    provider.fault(slow=0.1)
    output = check_output(client, client.ended(batch_id, 90), 500)
    calls = calls_by_line(provider)
    again = {custom_id for custom_id, times in calls.items() if times == 2}
    assert set(calls.values()) <= {1, 2}
    assert again, "something was in flight"
    lost = {one["custom_id"] for one in output if one["weir"].get("lost_workers")}
    assert again <= lost, "their lines say so"
    assert len(lost) <= 40, "what was in flight, and no more"
    books.check(provider)


def test_a_worker_that_is_told_to_stop_ends_its_lines_and_gives_back_the_others(
    weir: Weir, provider: Provider, books: Books, start_worker: StartWorker
) -> None:
    client, worker = BatchClient(weir, KEY), start_worker()
    provider.fault(slow=0.3)
    batch_id = client.begin(lines(60))
    client.progressed(batch_id, 10)
    os.kill(worker.pid, signal.SIGTERM)
    assert worker.process
    assert worker.process.wait(10) == 0
    assert not books.rows("SELECT 1 FROM batch_lines WHERE state = 'running'")
    assert client.get(batch_id).status == "in_progress"
    start_worker()
    check_output(client, client.ended(batch_id, 60), 60)
    check_called_once(provider, books)
    books.check(provider)


def test_lines_that_do_not_end_in_the_grace_period_are_given_back(
    weir: Weir, provider: Provider, books: Books
) -> None:
    client = BatchClient(weir, KEY)
    weir.env["SHUTDOWN_GRACE"] = "5"
    try:
        with BatchWorker(weir) as worker:
            books.wait_for("SELECT 1 FROM workers WHERE batch_worker_seen_at IS NOT NULL", 20, "it")
            provider.fault(hang=True)
            batch_id = client.begin(lines(3))
            wait_until(provider.completions, 30)
            running = f"SELECT DISTINCT worker_id FROM batch_lines WHERE batch_id = '{batch_id}'"
            [had_them] = books.rows(f"{running} AND state = 'running'")
            os.kill(worker.pid, signal.SIGTERM)
            assert worker.process
            assert worker.process.wait(7) == 0
        # The serving process begins them again once it sees no worker: they may wait or run.
        found = books.rows(f"SELECT worker_id, lost FROM batch_lines WHERE batch_id = '{batch_id}'")
        assert [one["lost"] for one in found] == [0] * 3
        assert had_them["worker_id"] not in {one["worker_id"] for one in found}
    finally:
        # Else later tests would have the calls of this batch among theirs.
        del weir.env["SHUTDOWN_GRACE"]
        provider.reset()
        for batch in client.sdk.batches.list():
            if batch.status not in ENDED:
                client.sdk.batches.cancel(batch.id)
                client.ended(batch.id)


@pytest.mark.parametrize("signal_name", ["SIGKILL", "SIGTERM"])
def test_without_a_broker_a_serving_process_may_end_too(
    start_weir: MakeWeir, provider: Provider, signal_name: str
) -> None:
    weir = start_weir(**SETTINGS, OPENAI_API_KEY="sk-up", OPENAI_BASE_URL=provider.base_url)
    client, books = BatchClient(weir, KEY), Books(weir)
    provider.fault(slow=0.1)
    batch_id = client.begin(lines(150))
    client.progressed(batch_id, 30)
    if signal_name == "SIGKILL":
        weir.kill()
    else:
        weir.terminate()
    weir.start()
    check_output(client, client.ended(batch_id, 60), 150)
    calls = calls_by_line(provider)
    assert set(calls.values()) <= ({1, 2} if signal_name == "SIGKILL" else {1})
    books.check(provider)


def test_two_workers_and_the_serving_process_share_the_lines(
    weir: Weir, provider: Provider, books: Books, start_worker: StartWorker
) -> None:
    client = BatchClient(weir, KEY)
    provider.fault(slow=0.05)
    # The serving process has begun when the workers come.
    batch_id = client.begin(lines(200))
    client.progressed(batch_id, 5)
    start_worker()
    start_worker()
    check_output(client, client.ended(batch_id), 200)
    check_called_once(provider, books)
    books.check(provider)


BY_SERVING = """SELECT count(*) FROM batch_lines JOIN workers ON workers.id = batch_lines.worker_id
    WHERE state = 'running' AND batch_worker_seen_at IS NULL"""
BY_WORKERS = BY_SERVING.replace("IS NULL", "IS NOT NULL")


def test_a_serving_process_leaves_what_it_has_begun_to_a_worker_that_comes(
    weir: Weir, provider: Provider, books: Books, start_worker: StartWorker
) -> None:
    client = BatchClient(weir, KEY)
    provider.fault(slow=2)
    batch_id = client.begin(lines(120))
    client.progressed(batch_id, 1)
    start_worker()
    books.wait_for(f"SELECT 1 WHERE ({BY_SERVING}) = 0 AND ({BY_WORKERS}) > 0", 20, "it")
    assert client.get(batch_id).status == "in_progress"
    provider.fault()
    check_output(client, client.ended(batch_id, 60), 120)
    books.check(provider)


def empty(valkey: Valkey) -> None:
    valkey.flush()


def restart(valkey: Valkey) -> None:
    valkey.kill()
    valkey.start()


def take_away(valkey: Valkey) -> None:
    valkey.kill()


@pytest.mark.parametrize("trouble", [empty, restart, take_away])
def test_trouble_with_the_broker_costs_nothing(
    weir: Weir,
    provider: Provider,
    books: Books,
    valkey: Valkey,
    start_worker: StartWorker,
    trouble: Callable[[Valkey], None],
) -> None:
    client = BatchClient(weir, KEY)
    start_worker()
    provider.fault(slow=0.1)
    batch_id = client.begin(lines(80))
    client.progressed(batch_id, 10)
    trouble(valkey)
    second = client.begin([line(f"d{number}", f"second {number}") for number in range(5)])
    check_output(client, client.ended(batch_id), 80)
    assert client.ended(second).request_counts.completed == 5
    check_called_once(provider, books)
    books.check(provider)


def test_a_database_that_restarts_costs_nothing(
    weir: Weir,
    provider: Provider,
    books: Books,
    postgres: Postgres,
    start_worker: StartWorker,
) -> None:
    client = BatchClient(weir, KEY)
    start_worker()
    provider.fault(slow=0.1)
    batch_id = client.begin(lines(80))
    client.progressed(batch_id, 10)
    postgres.kill()
    postgres.start()
    wait_until(lambda: weir.get("/readiness").status_code == 200, 20)
    check_output(client, client.ended(batch_id), 80)
    # What was being reserved when it went may have been deleted, or is booked at its ceiling.
    assert set(calls_by_line(provider).values()) <= {1, 2}
