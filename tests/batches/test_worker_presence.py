"""Who works on batches: processes of `flask worker`, or those that serve while there are none."""

from __future__ import annotations

from functools import partial

import pytest

from webapp.batches import worker_presence
from webapp.batches.worker_presence import WorkerPresence
from webapp.metering.heartbeats import Heartbeats, batch_worker_seen, workers
from webapp.storage.database import Database, DatabaseTime


def seen(database: Database) -> bool:
    return database.read(partial(batch_worker_seen, within=30))


def grow_old(database: Database, seconds: float) -> None:
    old = workers.update().values(batch_worker_seen_at=DatabaseTime() - seconds)
    database.write(lambda connection: connection.execute(old))


def test_a_serving_process_is_no_batch_worker(database: Database) -> None:
    heartbeats = Heartbeats(database)
    heartbeats.register()
    heartbeats.beat()
    assert not seen(database)


def test_a_batch_worker_is_seen_while_its_heart_beats(database: Database) -> None:
    heartbeats = Heartbeats(database)
    heartbeats.register_batch_worker()
    assert seen(database)
    grow_old(database, 31)
    assert not seen(database)
    heartbeats.beat()
    assert seen(database)
    heartbeats.leave()
    assert not seen(database)


def test_a_batch_worker_that_was_taken_for_gone_is_seen_again(database: Database) -> None:
    heartbeats = Heartbeats(database)
    heartbeats.register_batch_worker()
    database.write(lambda connection: connection.execute(workers.delete()))
    heartbeats.beat()
    assert seen(database)


def test_a_serving_process_works_while_no_worker_is_seen(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_presence, "ASK_INTERVAL", 0.0)
    presence = WorkerPresence(database)
    assert presence.works_here()
    Heartbeats(database).register_batch_worker()
    assert not presence.works_here()
    grow_old(database, 31)
    assert presence.works_here()


def test_the_database_is_not_asked_for_workers_each_time(database: Database) -> None:
    presence = WorkerPresence(database)
    assert presence.works_here()
    Heartbeats(database).register_batch_worker()
    assert presence.works_here()
