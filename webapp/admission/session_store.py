"""Sessions of agents in the database: how many requests they had, and when the last one came.

Only those of keys with a limit per session are here. What they spend is in the table of budgets.
All times are the database's.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    Float,
    Integer,
    String,
    Table,
    and_,
    func,
    select,
    tuple_,
)

from webapp.llm.sessions import TTL, Session
from webapp.metering.budgets import OF_SESSION, budgets
from webapp.storage.database import Database, DatabaseTime, metadata, upsert

agent_sessions = Table(
    "agent_sessions",
    metadata,
    Column("key_id", Integer, primary_key=True),
    Column("id", String(40), primary_key=True),
    Column("label", String(40), nullable=False),
    Column("requests", BigInteger, nullable=False),
    # Unix seconds.
    Column("last_at", Float, nullable=False),
)

NO_LIMIT = 2**62
INTERVAL = 600.0  # seconds between two looks for sessions that have ended
BATCH = 500


@dataclass(frozen=True, slots=True)
class SessionState:
    """How many requests a session had, and when it ends (Unix seconds), if it has begun."""

    requests: int = 0
    ends_at: float | None = None


@dataclass(frozen=True, slots=True)
class ListedSession:
    """A session as pages show it; `last_at` is in Unix seconds, money in nano-USD."""

    label: str
    requests: int
    last_at: float
    spent_nano: int


class SessionStore:
    """Counts the requests of sessions. Every method may raise StoreUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._next_at = 0.0

    def enter(self, key_id: int, session: Session, limit: int | None) -> bool:
        """Count a request. False where the session has had all of its requests: it counts nothing
        then, but goes on."""
        most = NO_LIMIT if limit is None else limit

        def work(connection: Connection) -> bool:
            if _count(connection, key_id, session, most):
                return True
            return _begin_anew(connection, key_id, session, most)

        return self._database.write(work)

    def give_back(self, key_id: int, session: Session) -> None:
        """Do not count a request that entered and was refused."""
        update = (
            agent_sessions.update()
            .where(_is(key_id, session), agent_sessions.c.requests > 0)
            .values(requests=agent_sessions.c.requests - 1)
        )
        self._database.write(lambda connection: connection.execute(update))

    def state(self, key_id: int, session: Session) -> SessionState:
        """How a session stands."""
        query = select(agent_sessions.c.requests, agent_sessions.c.last_at)
        query = query.where(_is(key_id, session), ~_has_ended())
        row = self._database.read(lambda connection: connection.execute(query).first())
        return SessionState(row.requests, row.last_at + TTL) if row else SessionState()

    def latest(self, key_id: int, count: int) -> list[ListedSession]:
        """The sessions of a key that have not ended, the latest first."""
        of_session = and_(
            budgets.c.key_id == agent_sessions.c.key_id,
            budgets.c.period == agent_sessions.c.id,
            budgets.c.start == OF_SESSION,
        )
        columns = (agent_sessions.c.label, agent_sessions.c.requests, agent_sessions.c.last_at)
        spent = func.coalesce(budgets.c.spent_nano, 0)
        query = select(*columns, spent).select_from(agent_sessions.outerjoin(budgets, of_session))
        query = query.where(agent_sessions.c.key_id == key_id, ~_has_ended())
        query = query.order_by(agent_sessions.c.last_at.desc()).limit(count)
        rows = self._database.read(lambda connection: connection.execute(query).all())
        return [ListedSession(*row) for row in rows]

    def tick(self) -> None:
        """Delete sessions that have ended, and what they spent, if due."""
        if time.monotonic() >= self._next_at and self._database.write(_sweep) < BATCH:
            self._next_at = time.monotonic() + INTERVAL


def _is(key_id: int, session: Session) -> ColumnElement[bool]:
    return and_(agent_sessions.c.key_id == key_id, agent_sessions.c.id == session.id)


def _has_ended() -> ColumnElement[bool]:
    return agent_sessions.c.last_at <= DatabaseTime() - TTL


def _count(connection: Connection, key_id: int, session: Session, most: int) -> bool:
    """Count a request of a session that goes on or is new, unless it has had all."""
    columns = agent_sessions.c
    row = {"key_id": key_id, "id": session.id, "label": session.label, "requests": 1}
    insert = upsert(connection.dialect.name, agent_sessions).values(**row, last_at=DatabaseTime())
    counting = insert.on_conflict_do_update(
        index_elements=[columns.key_id, columns.id],
        set_={"requests": columns.requests + 1, "last_at": DatabaseTime()},
        where=and_(~_has_ended(), columns.requests < most),
    ).returning(columns.requests)
    return connection.execute(counting).first() is not None


def _begin_anew(connection: Connection, key_id: int, session: Session, most: int) -> bool:
    """Count the first request of a session if the one before has ended."""
    ended = agent_sessions.delete().where(_is(key_id, session), _has_ended())
    if connection.execute(ended).rowcount:
        of_session = (budgets.c.key_id == key_id, budgets.c.period == session.id)
        # What is reserved belongs to calls that will be settled.
        nothing = budgets.update().where(*of_session, budgets.c.start == OF_SESSION)
        connection.execute(nothing.values(spent_nano=0))
    # Another request may have begun it just now.
    if _count(connection, key_id, session, most):
        return True
    goes_on = agent_sessions.update().where(_is(key_id, session))
    connection.execute(goes_on.values(last_at=DatabaseTime()))
    return False


def _sweep(connection: Connection) -> int:
    """Returns the number of sessions that it deleted."""
    keys = (agent_sessions.c.key_id, agent_sessions.c.id)
    query = select(*keys).where(_has_ended()).limit(BATCH).with_for_update(skip_locked=True)
    ended: list[Any] = [tuple(row) for row in connection.execute(query)]
    if ended:
        spent = tuple_(budgets.c.key_id, budgets.c.period).in_(ended)
        connection.execute(budgets.delete().where(spent, budgets.c.start == OF_SESSION))
        connection.execute(agent_sessions.delete().where(tuple_(*keys).in_(ended)))
    return len(ended)
