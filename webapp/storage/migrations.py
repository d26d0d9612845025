"""Migrates the database to the newest schema, once, however many processes start at the same time.

Migrations only add, so a version also works on the schema of any later one, and leaves it as it is.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import re
import time
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import Connection, inspect, text
from sqlalchemy.exc import OperationalError

from webapp.storage import private_files
from webapp.storage.database import Database

log = logging.getLogger(__name__)

FOLDER = Path(__file__).resolve().parents[2] / "migrations"
# Any number that no other program uses for its advisory locks on this database.
LOCK_ID = 0x57656972
# Requests queue behind a migration that waits for a lock, and give up after 5 s. It is also less
# than the second after which PostgreSQL looks for deadlocks.
LOCK_TIMEOUT = "500ms"
LOCK_RETRY_INTERVAL = 1.0  # seconds
LOCK_NOT_AVAILABLE = "55P03"
REVISION = re.compile(r"\d{4}_\w+")


class UnknownRevision(Exception):
    """The database is at a revision that is neither this version's nor a later one's."""

    def __init__(self, *found: str) -> None:
        super().__init__(
            f"The database says that its schema is {' and '.join(map(repr, found))}, which no "
            "version of Weir has. Is it Weir's own database? See alembic_version in it."
        )


class NotWritable(Exception):
    """The database, or its role, may not be written."""


def known() -> list[str]:
    """This version's revisions: migration files are named by them and sort in order."""
    return sorted(path.stem for path in (FOLDER / "versions").glob("[0-9]*.py"))


def head() -> str:
    """The newest revision of this version."""
    return known()[-1]


def current(connection: Connection) -> str | None:
    """The revision the database is at, or None for an empty one. Raises UnknownRevision."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    query = text("SELECT version_num FROM alembic_version")
    found = connection.execute(query).scalars().all()
    if len(found) > 1 or any(name not in known() and not is_later(name) for name in found):
        raise UnknownRevision(*found)
    return found[0] if found else None


def is_later(revision: str | None) -> bool:
    """Whether it is a revision of a later version of Weir."""
    return bool(revision and REVISION.fullmatch(revision) and revision[:4] > head()[:4])


def upgrade(database: Database) -> bool:
    """Migrate to the newest revision; True if there was anything to do.

    Raises StoreUnavailable if the database is unavailable, and UnknownRevision.
    """
    if database.is_sqlite and database.url.database:
        Path(database.url.database).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _sqlite_lock(database):
        # Usually the schema is current, and Alembic is not even imported.
        if _is_done(database.read(current)):
            return False
        return database.write(_upgrade, timeout=None)


def is_usable(connection: Connection) -> bool:
    """Whether a database of PostgreSQL is migrated far enough for this version.

    Raises UnknownRevision, and NotWritable.
    """
    revision = current(connection)
    if revision != head() and not is_later(revision):
        return False
    may_write = text(
        "SELECT current_setting('transaction_read_only') = 'off'"
        " AND has_table_privilege('ledger', 'SELECT, INSERT, UPDATE')"
    )
    if not connection.execute(may_write).scalar_one():
        raise NotWritable
    return True


def _is_done(revision: str | None) -> bool:
    if is_later(revision):
        log.info(
            "The database is at %s, newer than this version's %s; it is taken as it is",
            revision,
            head(),
        )
        return True
    return revision == head()


def _upgrade(connection: Connection) -> bool:
    if connection.dialect.name == "postgresql":
        # No time limit, if the server has this setting.
        timeout = "FROM pg_settings WHERE name = 'transaction_timeout'"
        connection.execute(text(f"SELECT set_config(name, '0', true) {timeout}"))
        connection.execute(text("SELECT pg_advisory_xact_lock(:id)"), {"id": LOCK_ID})
    if _is_done(current(connection)):
        return False
    if connection.dialect.name != "postgresql":
        _migrate(connection)
        return True
    # Other versions of Weir may be using these tables.
    connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'"))
    while True:
        try:
            with connection.begin_nested():
                _migrate(connection)
            return True
        except OperationalError as error:
            if getattr(error.orig, "sqlstate", None) != LOCK_NOT_AVAILABLE:
                raise
            log.warning("Another transaction holds a lock that the migration needs; trying again")
            time.sleep(LOCK_RETRY_INTERVAL)


def _migrate(connection: Connection) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(FOLDER))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


@contextlib.contextmanager
def _sqlite_lock(database: Database) -> Iterator[None]:
    """A file lock next to the database file: waiting for SQLite's own lock would time out.

    It is taken before the first connection: if two processes switch an empty file to WAL at the
    same time, SQLite refuses one of them at once.
    """
    if not database.is_sqlite or not database.url.database:
        yield
        return
    with open(f"{database.url.database}.migrating", "w", opener=private_files.create) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        private_files.restrict(database.url.database)
        yield
