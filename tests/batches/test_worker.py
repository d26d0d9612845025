"""The process `flask worker`, with lines that are files, so that only the queue is the subject."""

from __future__ import annotations

import os
import pickle
import signal
import tempfile
import time
from contextlib import closing
from pathlib import Path

import psycopg
from kombu import Connection

from tests.batches.conftest import AT_ONCE, StartWorker, ring
from tests.support.servers import Postgres, Valkey, wait_until
from tests.support.worker_process import Lines
from webapp.batches import broker
from webapp.batches.broker import QUEUE
from webapp.batches.doorbell import Doorbell
from webapp.batches.worker_loop import LOOK_INTERVAL

KEY = f"weir:broker:{QUEUE}"
TASK = {"task": broker.TASK, "id": "1", "lang": "py"}


POISONED = Path(tempfile.gettempdir()) / f"weir-poisoned-{os.getpid()}"


class Poison:
    """Makes a file where it is read, if anything reads it."""

    def __reduce__(self) -> object:
        return Path.touch, (POISONED,)


PICKLE = {"content_type": "application/x-python-serialize", "content_encoding": "binary"}
POISON: list[tuple[object, dict[str, object]]] = [
    ({"no": "task"}, {}),
    ("text", {"content_type": "text/plain", "content_encoding": "utf-8"}),
    ([[], {}, {}], {"headers": TASK | {"task": "celery.backend_cleanup"}}),
    ([[], {}, {}], {"headers": TASK | {"task": "unknown"}}),
    ([[], {}, {}], {"headers": TASK | {"eta": "not a time"}}),
    ("no list", {"headers": TASK}),
    ([["x"] * 10, {"unknown": 1}, {}], {"headers": TASK}),
    (pickle.dumps([[Poison()], {}, {}]), PICKLE | {"headers": TASK}),
    (pickle.dumps(Poison()), PICKLE),
]


def test_a_ring_wakes_a_worker_at_once_also_when_the_broker_was_emptied(
    start_worker: StartWorker, lines: Lines, fresh_valkey: Valkey
) -> None:
    start_worker(REDIS_URL=fresh_valkey.url)
    wait_until(lambda: lines.runs() == 1, what="The first look")
    with closing(Doorbell(fresh_valkey.url)) as doorbell:
        lines.add("a")
        doorbell.ring("batch_1")
        wait_until(lambda: lines.names("done") == ["a"], AT_ONCE, "The work")
        fresh_valkey.flush()
        lines.add("b")
        doorbell.ring("batch_1")
        wait_until(lambda: lines.names("done") == ["a", "b"], AT_ONCE, "The work")


def test_a_worker_ends_the_lines_that_run_when_it_is_told_to_stop(
    start_worker: StartWorker, lines: Lines, fresh_valkey: Valkey
) -> None:
    worker = start_worker(REDIS_URL=fresh_valkey.url)
    lines.add("a", seconds=2)
    lines.add("b")
    ring(fresh_valkey.url)
    wait_until(lambda: lines.names("running") == ["a"])

    assert worker.terminate(signal.SIGINT) == 0

    assert (lines.names("done"), lines.names("waiting")) == (["a"], ["b"])


def test_a_worker_ends_within_the_grace_period_while_its_broker_hangs(
    start_worker: StartWorker, lines: Lines, fresh_valkey: Valkey
) -> None:
    worker = start_worker(REDIS_URL=fresh_valkey.url, SHUTDOWN_GRACE=5)
    lines.add("a", seconds=60)
    ring(fresh_valkey.url)
    wait_until(lambda: lines.names("running") == ["a"])

    fresh_valkey.pause()
    began = time.monotonic()
    assert worker.terminate(signal.SIGTERM) == 0

    assert time.monotonic() - began < 5
    assert lines.names("waiting") == ["a"]


def test_work_whose_message_is_lost_is_found(
    start_worker: StartWorker, lines: Lines, fresh_valkey: Valkey
) -> None:
    start_worker(REDIS_URL=fresh_valkey.url)
    wait_until(lambda: lines.runs() == 1)
    lines.add("a")
    wait_until(lambda: lines.names("done") == ["a"], LOOK_INTERVAL + AT_ONCE, "The look")


def test_messages_do_not_gather_while_a_worker_is_busy(
    start_worker: StartWorker, lines: Lines, fresh_valkey: Valkey
) -> None:
    start_worker(REDIS_URL=fresh_valkey.url)
    lines.add("a", seconds=30)
    with closing(Doorbell(fresh_valkey.url)) as doorbell, fresh_valkey.client() as client:
        for _ in range(200):
            doorbell.ring("batch_1")
        wait_until(lambda: lines.names("running") == ["a"])
        wait_until(lambda: client.llen(KEY) == 0, 20, "The end of the queue")
        wait_until(lambda: not client.exists("weir:broker:unacked"))


def test_a_worker_waits_for_its_database_and_is_seen_while_it_works(
    start_worker: StartWorker, lines: Lines, fresh_database: str, postgres: Postgres
) -> None:
    postgres.stop()
    worker = start_worker(DATABASE_URL=fresh_database)
    lines.add("a")
    postgres.start()
    wait_until(lambda: lines.names("done") == ["a"], 15)
    lines.add("b")
    wait_until(lambda: "b" in lines.names("done"), AT_ONCE, "The look, without a broker")

    def seen() -> list[float | None]:
        with psycopg.connect(fresh_database) as connection:
            rows = connection.execute("SELECT batch_worker_seen_at FROM workers").fetchall()
        return [at for [at] in rows]

    [first] = seen()
    assert first
    wait_until(lambda: seen() > [first], what="The next heartbeat")
    assert worker.terminate(signal.SIGTERM) == 0
    assert seen() == []


def test_two_workers_share_the_work(
    start_worker: StartWorker, lines: Lines, fresh_valkey: Valkey
) -> None:
    pids = {start_worker(REDIS_URL=fresh_valkey.url).pid for _ in range(2)}
    names = [f"{number:02}" for number in range(40)]
    lines.add(*names, seconds=0.1)
    for _ in range(4):
        ring(fresh_valkey.url)
    wait_until(lambda: lines.names("done") == names, 20)
    ran = [lines.done_by(name) for name in names]
    assert {pid for [pid] in ran} == pids


def test_a_message_that_is_not_weirs_is_discarded(
    start_worker: StartWorker, lines: Lines, fresh_valkey: Valkey
) -> None:
    worker = start_worker(REDIS_URL=fresh_valkey.url)
    wait_until(lambda: lines.runs() == 1)
    with fresh_valkey.client() as client:
        client.lpush(KEY, b"not JSON", b'{"body": 1, "properties": {}}')
    options = {"global_keyprefix": "weir:broker:"}
    with Connection(fresh_valkey.url, transport_options=options) as connection:
        producer = connection.Producer()
        for body, options in POISON:
            producer.publish(body, routing_key=QUEUE, **options)
        lines.add("a")
    ring(fresh_valkey.url)

    wait_until(lambda: lines.names("done") == ["a"], AT_ONCE)
    with fresh_valkey.client() as client:
        wait_until(lambda: client.llen(KEY) == 0, 15)
        wait_until(lambda: not client.exists("weir:broker:unacked"), 15)
    assert worker.is_running
    assert len([line for line in worker.messages() if "broker is" in line]) <= 2
    assert not POISONED.exists()
