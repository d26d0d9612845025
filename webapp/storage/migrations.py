"""Bringing the database to the newest schema, once, however many processes start together."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import Connection, inspect, text

from webapp.storage.database import Database

FOLDER = Path(__file__).resolve().parents[2] / "migrations"
# Any number that no other program uses for its advisory locks on this database.
LOCK_ID = 0x57656972


def head() -> str:
    """The newest revision: migration files are named by it and sort in order."""
    return max(path.stem for path in (FOLDER / "versions").glob("[0-9]*.py"))


def current(connection: Connection) -> str | None:
    """The revision the database is at, or None for an empty one."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


def upgrade(database: Database) -> bool:
    """Migrate to the newest revision; True if there was anything to do.

    Raises StoreUnavailable when the database is away.
    """
    if database.is_sqlite and database.url.database:
        Path(database.url.database).parent.mkdir(parents=True, exist_ok=True)
    with _sqlite_lock(database):
        # At every start but the first nothing more happens, and Alembic is not even imported.
        if database.read(current) == head():
            return False
        return database.write(_upgrade, timeout=None)


def _upgrade(connection: Connection) -> bool:
    if connection.dialect.name == "postgresql":
        # As long as it takes, where the server knows this setting.
        timeout = "FROM pg_settings WHERE name = 'transaction_timeout'"
        connection.execute(text(f"SELECT set_config(name, '0', true) {timeout}"))
        connection.execute(text("SELECT pg_advisory_xact_lock(:id)"), {"id": LOCK_ID})
    if current(connection) == head():
        return False
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(FOLDER))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
    return True


@contextlib.contextmanager
def _sqlite_lock(database: Database) -> Iterator[None]:
    """A file lock beside the database file: waiting on SQLite's own would time out.

    It is held from the first connection on: of two that turn an empty file to WAL together, SQLite
    refuses one at once.
    """
    if not database.is_sqlite or not database.url.database:
        yield
        return
    with open(f"{database.url.database}.migrating", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
