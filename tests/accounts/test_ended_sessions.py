"""One suite for ended sessions on both databases."""

from __future__ import annotations

import time

from sqlalchemy import select

from webapp.accounts.ended_sessions import (
    MAX_CLOCK_DIFFERENCE,
    EndedSessions,
    ended_sessions,
    expired,
    has_ended,
)
from webapp.storage.database import Database
from webapp.storage.retention import Retention


def ended(database: Database, session_id: str) -> bool:
    return bool(database.read(lambda c: c.execute(select(has_ended(session_id))).scalar_one()))


def test_a_session_ends_alone_and_its_id_is_kept_from_who_reads_the_table(
    database: Database,
) -> None:
    here, there = EndedSessions(database), EndedSessions(database)
    for replica in (here, there):
        replica.end("one", int(time.time()) + 60)
    assert ended(database, "one")
    assert not ended(database, "another")
    [row] = database.read(lambda c: c.execute(select(ended_sessions)).all())
    assert "one" not in row.id
    assert len(row.id) == 64


def test_a_session_is_forgotten_once_no_replica_takes_its_cookie(database: Database) -> None:
    sessions, now = EndedSessions(database), int(time.time())
    sessions.end("valid", now + 60)
    sessions.end("valid by another clock", now - MAX_CLOCK_DIFFERENCE + 60)
    sessions.end("over", now - MAX_CLOCK_DIFFERENCE - 60)
    Retention(database, [expired()]).tick()
    names = ("valid", "valid by another clock", "over")
    assert [ended(database, name) for name in names] == [True, True, False]
