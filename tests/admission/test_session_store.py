"""One suite for the sessions of agents on both databases."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import insert, select

from webapp.admission.session_store import SessionState, SessionStore, agent_sessions
from webapp.errors import StoreUnavailable
from webapp.llm.sessions import TTL, Session
from webapp.metering.budgets import OF_SESSION, budgets
from webapp.storage.database import Database

ONE, OTHER = Session("one"), Session("other")
KEY, OTHER_KEY = 1, 2


@pytest.fixture
def store(database: Database) -> SessionStore:
    return SessionStore(database)


def spend(database: Database, key_id: int, period: str, spent: int, reserved: int = 0) -> None:
    row = {"key_id": key_id, "period": period, "start": OF_SESSION}
    amounts = {"spent_nano": spent, "reserved_nano": reserved}
    database.write(lambda connection: connection.execute(insert(budgets).values(**row, **amounts)))


def spent(database: Database) -> dict[tuple[int, str], tuple[int, int]]:
    rows = database.read(lambda connection: connection.execute(select(budgets)).all())
    return {(row.key_id, row.period): (row.spent_nano, row.reserved_nano) for row in rows}


def a_day_passes(database: Database, *sessions: Session) -> None:
    ids = [session.id for session in sessions]
    update = agent_sessions.update().where(agent_sessions.c.id.in_(ids))
    earlier = update.values(last_at=agent_sessions.c.last_at - TTL)
    database.write(lambda connection: connection.execute(earlier))


def test_of_many_requests_at_once_no_more_enter_than_the_limit(database: Database) -> None:
    stores = [SessionStore(database) for _ in range(4)]
    with ThreadPoolExecutor(8) as pool:
        entered = pool.map(lambda n: stores[n % 4].enter(KEY, ONE, 7), range(40))
        assert Counter(entered) == {True: 7, False: 33}
    assert stores[0].state(KEY, ONE).requests == 7


def test_a_session_belongs_to_its_key_and_its_name(store: SessionStore) -> None:
    for key_id, session in ((KEY, ONE), (KEY, OTHER), (KEY, Session()), (OTHER_KEY, ONE)):
        assert store.enter(key_id, session, 1)
        assert not store.enter(key_id, session, 1)


def test_a_request_that_was_refused_is_given_back_once(store: SessionStore) -> None:
    assert store.enter(KEY, ONE, 1)
    store.give_back(KEY, ONE)
    store.give_back(KEY, ONE)
    store.give_back(KEY, OTHER)
    assert store.enter(KEY, ONE, 1)
    assert not store.enter(KEY, ONE, 1)


def test_a_session_ends_after_a_day_without_a_request(
    database: Database, store: SessionStore
) -> None:
    assert store.state(KEY, ONE) == SessionState()
    assert store.enter(KEY, ONE, 2)
    assert store.enter(KEY, ONE, 2)
    spend(database, KEY, ONE.id, spent=5, reserved=3)
    a_day_passes(database, ONE)
    assert store.state(KEY, ONE) == SessionState()
    assert [store.enter(KEY, ONE, 2) for _ in range(3)] == [True, True, False]
    # What runs is not forgotten: it will be settled.
    assert spent(database) == {(KEY, ONE.id): (0, 3)}


def test_a_request_that_is_refused_keeps_its_session_from_ending(
    database: Database, store: SessionStore
) -> None:
    assert store.enter(KEY, ONE, 1)
    half = agent_sessions.update().values(last_at=agent_sessions.c.last_at - TTL / 2)
    for _ in range(3):
        database.write(lambda connection: connection.execute(half))
        assert not store.enter(KEY, ONE, 1)


def test_many_requests_at_once_begin_a_session_anew_but_once(database: Database) -> None:
    store = SessionStore(database)
    assert store.enter(KEY, ONE, 5)
    a_day_passes(database, ONE)
    with ThreadPoolExecutor(8) as pool:
        entered = pool.map(lambda _: store.enter(KEY, ONE, 5), range(20))
        assert Counter(entered) == {True: 5, False: 15}


def test_sessions_that_have_ended_are_swept_with_what_they_spent(
    database: Database, store: SessionStore
) -> None:
    for session in (ONE, OTHER):
        store.enter(KEY, session, None)
        spend(database, KEY, session.id, spent=5)
    spend(database, KEY, "batch_1", spent=7)
    spend(database, OTHER_KEY, ONE.id, spent=9)
    a_day_passes(database, ONE)
    store.tick()
    kept = {(KEY, OTHER.id): (5, 0), (KEY, "batch_1"): (7, 0), (OTHER_KEY, ONE.id): (9, 0)}
    assert spent(database) == kept
    rows = database.read(lambda connection: connection.execute(select(agent_sessions)).all())
    assert [(row.key_id, row.id, row.label) for row in rows] == [(KEY, OTHER.id, "other")]


def test_without_a_database_nothing_is_told(tmp_path: Path) -> None:
    store = SessionStore(Database(f"sqlite:///{tmp_path}/no/such/folder/weir.db"))
    for ask in (lambda: store.enter(KEY, ONE, 1), lambda: store.state(KEY, ONE)):
        with pytest.raises(StoreUnavailable):
            ask()
