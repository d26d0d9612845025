"""One suite for the idempotency keys on both databases."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from sqlalchemy import select

from webapp.admission.idempotency_store import (
    LEASE_TTL,
    RESPONSE_TTL,
    IdempotencyLease,
    IdempotencyStore,
    StoredResponse,
    expired,
    keys,
)
from webapp.errors import IdempotencyInProgress, IdempotencyMismatch, StoreUnavailable
from webapp.storage.database import Database
from webapp.storage.retention import Retention

HEADERS = {"Content-Type": "application/json", "X-Cache": "MISS"}
BODY = b'{"content": "\xc3\xbc"}\x00\xff'


@pytest.fixture
def store(database: Database) -> IdempotencyStore:
    return IdempotencyStore(database)


@pytest.fixture
def elsewhere(database: Database) -> IdempotencyStore:
    """The same keys, as another process sees them."""
    return IdempotencyStore(database)


def acquire(store: IdempotencyStore, fingerprint: str = "body") -> IdempotencyLease:
    lease = store.acquire("key", fingerprint)
    assert isinstance(lease, IdempotencyLease)
    return lease


def change(database: Database, **values: float) -> None:
    update = keys.update().values(**values)
    database.write(lambda connection: connection.execute(update))


def leased_until(database: Database) -> float:
    query = select(keys.c.leased_until)
    return database.read(lambda connection: float(connection.execute(query).scalar_one()))


def test_a_key_is_held_by_one_request_at_a_time(
    store: IdempotencyStore, elsewhere: IdempotencyStore
) -> None:
    acquire(store)
    for other in (store, elsewhere):
        with pytest.raises(IdempotencyInProgress):
            other.acquire("key", "body")
        with pytest.raises(IdempotencyMismatch):
            other.acquire("key", "another body")
    assert isinstance(elsewhere.acquire("another key", "body"), IdempotencyLease)


def test_a_finished_request_is_answered_again_byte_by_byte(
    store: IdempotencyStore, elsewhere: IdempotencyStore
) -> None:
    store.finish(acquire(store), HEADERS, BODY)
    for other in (store, elsewhere, store):
        assert other.acquire("key", "body") == StoredResponse(HEADERS, BODY)
        with pytest.raises(IdempotencyMismatch):
            other.acquire("key", "another body")


def test_a_key_that_was_released_is_anybody_s_with_any_body(
    store: IdempotencyStore, elsewhere: IdempotencyStore
) -> None:
    store.release(acquire(store))
    elsewhere.release(acquire(elsewhere, "another body"))
    acquire(store)


def test_a_lease_that_ended_is_anybody_s_and_its_first_holder_has_lost_it(
    database: Database, store: IdempotencyStore, elsewhere: IdempotencyStore
) -> None:
    lost = acquire(store)
    change(database, leased_until=time.time() - 1)
    held = acquire(elsewhere)
    store.finish(lost, {}, b"too late")
    store.release(lost)
    with pytest.raises(IdempotencyInProgress):
        store.acquire("key", "body")
    elsewhere.finish(held, HEADERS, BODY)
    assert store.acquire("key", "body") == StoredResponse(HEADERS, BODY)


def test_a_lease_that_ended_is_still_of_its_body(
    database: Database, store: IdempotencyStore
) -> None:
    acquire(store)
    change(database, leased_until=time.time() - 1)
    with pytest.raises(IdempotencyMismatch):
        store.acquire("key", "another body")


def test_each_process_renews_the_leases_of_what_runs_there(
    database: Database, store: IdempotencyStore, elsewhere: IdempotencyStore
) -> None:
    lease = acquire(store)
    soon = time.time() + 1
    change(database, leased_until=soon)
    elsewhere.tick()
    assert leased_until(database) == pytest.approx(soon, abs=0.01)
    store.tick()
    assert leased_until(database) > soon + LEASE_TTL / 2
    store.finish(lease, HEADERS, BODY)
    change(database, leased_until=soon)
    store.tick()
    assert leased_until(database) == pytest.approx(soon, abs=0.01)


def test_an_answer_is_kept_for_a_day(database: Database, store: IdempotencyStore) -> None:
    store.finish(acquire(store), HEADERS, BODY)
    now = time.time()
    change(database, created_at=now - RESPONSE_TTL + 60, leased_until=now - 60)
    assert store.acquire("key", "body") == StoredResponse(HEADERS, BODY)
    change(database, created_at=now - RESPONSE_TTL - 60)
    acquire(store, "another body")


def test_what_is_older_than_a_day_and_runs_no_more_is_deleted(
    database: Database, store: IdempotencyStore
) -> None:
    store.finish(acquire(store), HEADERS, BODY)
    now = time.time()
    change(database, created_at=now - RESPONSE_TTL - 60, leased_until=now - 60)
    assert isinstance(store.acquire("new", "body"), IdempotencyLease)
    Retention(database, [expired()]).tick()
    query = select(keys.c.id)
    assert database.read(lambda c: [*c.execute(query).scalars()]) == ["new"]


@pytest.mark.parametrize("wrong_by", [-2 * RESPONSE_TTL, 15.0, 2 * RESPONSE_TTL], ids=str)
def test_a_process_whose_clock_is_wrong_takes_and_deletes_nothing(
    database: Database,
    store: IdempotencyStore,
    elsewhere: IdempotencyStore,
    monkeypatch: pytest.MonkeyPatch,
    wrong_by: float,
) -> None:
    running = acquire(store)
    true_time = time.time
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: true_time() + wrong_by)
        with pytest.raises(IdempotencyInProgress):
            elsewhere.acquire("key", "body")
        assert isinstance(elsewhere.acquire("its own", "body"), IdempotencyLease)
        elsewhere.tick()
    with pytest.raises(IdempotencyInProgress):
        store.acquire("its own", "body")
    store.finish(running, HEADERS, BODY)
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: true_time() + wrong_by)
        Retention(database, [expired()]).tick()
        assert elsewhere.acquire("key", "body") == StoredResponse(HEADERS, BODY)


def test_without_the_database_no_key_can_be_promised(tmp_path: Path) -> None:
    store = IdempotencyStore(Database(f"sqlite:///{tmp_path}/nowhere/weir.db"))
    lease = IdempotencyLease("key", "holder")
    for verb in (
        lambda: store.acquire("key", "body"),
        lambda: store.finish(lease, {}, b""),
        lambda: store.release(lease),
    ):
        with pytest.raises(StoreUnavailable):
            verb()
