"""Checks of the database and the ledger in it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import Connection, text
from sqlalchemy.exc import SQLAlchemyError

from webapp import money
from webapp.diagnosis.finding import Finding
from webapp.errors import StoreUnavailable
from webapp.services import Services
from webapp.storage import migrations
from webapp.storage.database import Database
from webapp.worker_count import worker_count

CONNECTIONS_PER_WORKER = 10  # the maximum of a worker's connections to PostgreSQL
DISK_WARNING = 500 * 1024 * 1024


def check_database(services: Services) -> Iterator[Finding]:
    database = services.database
    began = time.perf_counter()
    try:
        revision = database.read(migrations.current)
    except StoreUnavailable:
        if problem := database.problem:
            yield Finding("database", "problem", *problem)
            return
        yield Finding(
            "database", "problem", "cannot be reached",
            "Check DATABASE_URL, and that the database is running.",
        )  # fmt: skip
        return
    except migrations.UnknownRevision as error:
        yield Finding("database", "problem", str(error), "Is DATABASE_URL right?")
        return
    took = (time.perf_counter() - began) * 1000
    yield Finding("database", "ok", f"{database.url.get_backend_name()} answers in {took:.1f} ms")
    if revision:
        yield from _check_writes(database)
    if migrations.is_later(revision):
        found = f"at {revision}, newer than this version's {migrations.head()}: both work"
        yield Finding("database", "ok", found)
    elif revision != migrations.head():
        yield Finding(
            "database", "warning",
            f"schema is {revision or 'missing'}, expected {migrations.head()}",
            "Run flask db upgrade, or start Weir: it migrates at start.",
        )  # fmt: skip
    if database.is_sqlite:
        folder = Path(database.url.database or ".").resolve().parent
        free = shutil.disk_usage(folder).free
        if free < DISK_WARNING:
            yield Finding(
                "database",
                "warning",
                f"{free // 2**20} MB are free on its disk",
                "Free up disk space.",
            )
        return
    most, used = database.read(
        lambda c: c.execute(
            text("SELECT current_setting('max_connections')::int, count(*) FROM pg_stat_activity")
        ).one()
    )
    wanted = CONNECTIONS_PER_WORKER * worker_count(services.settings)[0]
    if wanted > most - 5:
        yield Finding(
            "database", "warning",
            f"this replica may open {wanted} connections, the server allows {most}",
            "Raise max_connections, put a pooler in front, or lower WEB_CONCURRENCY.",
        )  # fmt: skip
    else:
        yield Finding("database", "ok", f"{used} of {most} connections are in use")


def _check_writes(database: Database) -> Iterator[Finding]:
    """Whether the database takes a write, which is rolled back."""

    def write(connection: Connection) -> None:
        with connection.begin_nested() as attempt:
            connection.execute(text("CREATE TABLE weir_doctor AS SELECT 1 AS number"))
            attempt.rollback()

    try:
        database.write(write)
    except StoreUnavailable:
        if problem := database.problem:
            yield Finding("database", "problem", *problem)
        else:
            found = "takes no write now"
            yield Finding("database", "warning", found, "Is another transaction very long?")
    except SQLAlchemyError:
        pass  # this user may not create tables: that does not matter here


def check_ledger(services: Services) -> Iterator[Finding]:
    try:
        drift = services.calls.drift()
    except (StoreUnavailable, SQLAlchemyError):
        return  # reported by the database check
    if drift:
        yield Finding(
            "ledger", "problem", f"budgets and ledger differ by {money.text(drift)} USD",
            "This is a bug in Weir. Please report it with the log.",
        )  # fmt: skip
    else:
        yield Finding("ledger", "ok", "budgets and ledger agree")
