"""Sessions that were signed out: their cookies are signed and would be valid until their end."""

from __future__ import annotations

import hashlib

from sqlalchemy import BigInteger, Column, ColumnElement, Connection, String, Table, exists

from webapp.storage.database import Database, metadata, upsert
from webapp.storage.retention import Expired

ended_sessions = Table(
    "ended_sessions",
    metadata,
    # SHA-256 of the session's id.
    Column("id", String(64), primary_key=True),
    # Unix seconds: when its cookies would have ended.
    Column("ends_at", BigInteger, nullable=False),
)

MAX_CLOCK_DIFFERENCE = 3_600  # seconds; of a replica that still takes the cookie for valid


class EndedSessions:
    """Records which sessions were signed out. Every method may raise StoreUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._unwritten: dict[str, int] = {}

    def end(self, session_id: str, ends_at: int) -> None:
        """End a session that would have ended at this time (Unix seconds).

        If the database is unavailable, it is ended when the database is available again.
        """
        self._unwritten[_hashed(session_id)] = ends_at
        self.tick()

    def tick(self) -> None:
        """Write what could not be written before."""
        rows = [{"id": hashed, "ends_at": ends} for hashed, ends in self._unwritten.items()]
        if not rows:
            return

        def work(connection: Connection) -> None:
            insert = upsert(connection.dialect.name, ended_sessions).values(rows)
            connection.execute(insert.on_conflict_do_nothing())

        self._database.write(work)
        for row in rows:
            self._unwritten.pop(str(row["id"]), None)


def has_ended(session_id: str) -> ColumnElement[bool]:
    """The SQL condition that this session was signed out."""
    return exists().where(ended_sessions.c.id == _hashed(session_id))


def expired() -> Expired:
    """Sessions whose cookies no replica takes any more."""
    return ended_sessions, lambda now: (ended_sessions.c.ends_at < now - MAX_CLOCK_DIFFERENCE,)


def _hashed(session_id: str) -> str:
    return hashlib.sha256(session_id.encode()).hexdigest()
