"""One suite for both databases: SQLite and PostgreSQL, asked as a worker asks them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import gevent
import psycopg
import pytest
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Date,
    Float,
    Integer,
    MetaData,
    String,
    Table,
    insert,
    select,
    text,
)
from sqlalchemy.exc import IntegrityError

from tests.support.gevent_process import GeventProcess
from tests.support.servers import Postgres, wait_until
from webapp.errors import StoreUnavailable
from webapp.storage.database import Database, increment
from webapp.storage.statements import MAX_PARAMETERS, execute_rows

notes = Table(
    "notes",
    MetaData(),
    Column("name", String(40), primary_key=True),
    Column("count", Integer, nullable=False),
    Column("total", Integer, nullable=False),
)
kinds = Table(
    "kinds",
    notes.metadata,
    Column("day", Date, primary_key=True),
    Column("name", String(40), primary_key=True),
    Column("flag", Boolean, nullable=False),
    Column("number", BigInteger),
    Column("at", Float),
)
KINDS = [
    {"name": "100 % ? 'ü'", "day": date(2026, 11, 28), "flag": True, "at": 0.5, "number": 1 << 40},
    {"name": "", "number": None, "flag": False, "day": date(1999, 1, 2), "at": None},
]
MANY = [KINDS[0] | {"name": f"{number:02d}"} for number in range(MAX_PARAMETERS)]
INSERT_KINDS = insert(kinds)
END_OTHERS = """
    SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
    WHERE datname = %(name)s AND pid != pg_backend_pid()
"""
SLOW = 0.5  # seconds that a slow transaction lasts


# What runs in the process; each URL has one database there.

_databases: dict[str, Database] = {}


def database(url: str) -> Database:
    if url not in _databases:
        _databases[url] = Database(url)
    return _databases[url]


def put(url: str, name: str, *, then: float = 0, timeout: float = 5, error: bool = False) -> str:
    """Write a note, wait so many seconds within its transaction, and fail if that is wanted."""

    def work(connection: Connection) -> str:
        connection.execute(insert(notes).values(name=name, count=1, total=1))
        time.sleep(then)
        if error:
            raise ZeroDivisionError(name)
        return f"put {name}"

    return database(url).write(work, timeout=timeout)


def names(url: str) -> list[str]:
    return database(url).read(
        lambda c: [*c.execute(select(notes.c.name).order_by("name")).scalars()]
    )


def read_beside_a_writer(url: str) -> tuple[list[str], float, list[str]]:
    """What a read finds while a note is written, how long that took, and what one finds after."""
    writer = gevent.spawn(put, url, "written", then=SLOW)
    gevent.sleep(SLOW / 5)
    began = time.monotonic()
    found = names(url)
    took = time.monotonic() - began
    writer.get()
    return found, took, names(url)


def count_at_once(url: str, times: int) -> list[Any]:
    row = {"name": "counted", "count": 1, "total": 10}
    statement = increment_of(url)
    jobs = [
        gevent.spawn(database(url).write, lambda c: c.execute(statement, [row]) and None)
        for _ in range(times)
    ]
    gevent.joinall(jobs, raise_error=True)
    return database(url).read(lambda c: [tuple(row) for row in c.execute(select(notes))])


def increment_of(url: str) -> Any:
    return database(url).read(lambda c: increment(c, notes, ["count", "total"]))


def put_kinds(url: str, *several: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for rows in several:
        database(url).write(lambda c, rows=rows: execute_rows(c, INSERT_KINDS, rows))
    query = select(kinds).order_by(kinds.c.day.desc(), kinds.c.name)
    return database(url).read(lambda c: [dict(row) for row in c.execute(query).mappings()])


def put_within(url: str, seconds: float) -> str:
    """What a slow write raises where its caller gives up before the database does."""
    try:
        with gevent.Timeout(seconds):
            return put(url, "given up", then=SLOW)
    except gevent.Timeout:
        return "the caller's timeout"


def ping(url: str) -> bool:
    return database(url).ping()


def state(url: str) -> dict[str, Any]:
    one = database(url)
    return {
        "unavailable": one.unavailable,
        "seen": one.last_seen is not None and one.seen_lately(),
        "connections": one.connections(),
    }


def failing(url: str) -> tuple[str, float]:
    """What a write raises, and after how many seconds."""
    began = time.monotonic()
    try:
        database(url).write(lambda c: c.execute(select(1)).scalar(), timeout=SLOW)
    except StoreUnavailable as error:
        return error.name, time.monotonic() - began
    return "", time.monotonic() - began


def timeouts(url: str) -> tuple[str, str]:
    """The server's timeout for transactions: in one of Weir's, and after it in the same session."""
    show = text("SHOW transaction_timeout")
    inside = database(url).read(lambda c: c.execute(show).scalar_one())
    with database(url).engine.connect() as connection:
        assert connection.connection.driver_connection
        after = connection.connection.driver_connection.execute(str(show)).fetchone()[0]
    return inside, after


def create(url: str) -> None:
    database(url).write(notes.metadata.create_all)


# The tests.


@dataclass(frozen=True, slots=True)
class Store:
    """A database with the table, and how it goes away and comes back."""

    url: str
    away_url: str
    leave: Callable[[], object]
    come_back: Callable[[], object]


@pytest.fixture(scope="module")
def process() -> Iterator[GeventProcess]:
    with GeventProcess() as running:
        yield running


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, process: GeventProcess, tmp_path: Path) -> Store:
    if request.param == "postgresql":
        server = request.getfixturevalue("postgres")
        url = request.getfixturevalue("empty_database").replace("://", "+psycopg://")
        made = Store(url, url, server.stop, server.start)
    else:
        # An open file does not go away: only one that is not there yet.
        folder = tmp_path / "later"
        url, away_url = f"sqlite:///{tmp_path}/weir.db", f"sqlite:///{folder}/weir.db"
        made = Store(url, away_url, lambda: None, folder.mkdir)
    process.run(create, made.url)
    return made


def test_what_is_written_can_be_read(process: GeventProcess, store: Store) -> None:
    assert process.run(names, store.url) == []
    assert process.run(put, store.url, "ü 😀") == "put ü 😀"
    assert process.run(names, store.url) == ["ü 😀"]
    assert process.run(state, store.url)["seen"]


def test_a_transaction_is_all_or_nothing_and_its_error_is_the_caller_s(
    process: GeventProcess, store: Store
) -> None:
    with pytest.raises(ZeroDivisionError, match="half"):
        process.run(put, store.url, "half", error=True)
    assert process.run(names, store.url) == []
    assert not process.run(state, store.url)["unavailable"]
    assert process.run(put, store.url, "half")


def test_what_the_database_refuses_does_not_make_it_away(
    process: GeventProcess, store: Store
) -> None:
    process.run(put, store.url, "once")
    with pytest.raises(IntegrityError):
        process.run(put, store.url, "once")
    assert not process.run(state, store.url)["unavailable"]
    assert process.run(names, store.url) == ["once"]


@pytest.mark.parametrize("several", [[KINDS], [KINDS[:1], KINDS[1:]], [MANY]])
def test_rows_of_every_kind_are_read_as_they_were_written(
    process: GeventProcess, store: Store, several: list[list[dict[str, Any]]]
) -> None:
    assert process.run(put_kinds, store.url, *several) == [row for rows in several for row in rows]
    with pytest.raises(IntegrityError):
        process.run(put_kinds, store.url, *several)


def test_many_at_once_count_exactly(process: GeventProcess, store: Store) -> None:
    assert process.run(count_at_once, store.url, 30) == [("counted", 30, 300)]


def test_a_reader_waits_for_no_writer_and_sees_only_what_is_committed(
    process: GeventProcess, store: Store
) -> None:
    process.run(put, store.url, "before")
    during, took, after = process.run(read_beside_a_writer, store.url)
    assert during == ["before"]
    assert took < SLOW / 2
    assert after == ["before", "written"]


def test_what_does_not_answer_in_time_is_away_for_a_moment(
    process: GeventProcess, store: Store
) -> None:
    began = time.monotonic()
    with pytest.raises(StoreUnavailable):
        process.run(put, store.url, "late", then=SLOW, timeout=SLOW / 5)
    assert time.monotonic() - began < SLOW
    assert process.run(state, store.url)["unavailable"]
    wait_until(lambda: process.run(ping, store.url), 5, "the way back")
    assert process.run(put, store.url, "next")


def test_who_gives_up_himself_says_nothing_of_the_database(
    process: GeventProcess, store: Store
) -> None:
    assert process.run(put_within, store.url, SLOW / 5) == "the caller's timeout"
    assert not process.run(state, store.url)["unavailable"]
    assert process.run(put, store.url, "next")


def test_away_is_told_quickly_and_it_is_found_again(process: GeventProcess, store: Store) -> None:
    assert process.run(put, store.url, "before")
    store.leave()
    error, took = process.run(failing, store.away_url)
    assert (error, took < 2) == ("StoreUnavailable", True)
    assert process.run(state, store.away_url)["unavailable"]
    # The others need not wait for what that one found out.
    error, took = process.run(failing, store.away_url)
    assert (error, took < 0.05) == ("StoreUnavailable", True)
    assert not process.run(ping, store.away_url)
    store.come_back()
    wait_until(lambda: process.run(ping, store.away_url), 5, "the way back")
    assert not process.run(state, store.away_url)["unavailable"]
    assert process.run(names, store.url) == ["before"]


def test_no_connection_stays_in_use(process: GeventProcess, store: Store) -> None:
    process.run(count_at_once, store.url, 5)
    connections = process.run(state, store.url)["connections"]
    assert connections.get("in_use", 0) == 0
    # SQLite has no pool: a connection for each native thread.
    assert bool(connections) == store.url.startswith("postgresql")


def test_nobody_notices_that_idle_connections_were_closed(
    process: GeventProcess, empty_database: str
) -> None:
    url = empty_database.replace("://", "+psycopg://")
    process.run(create, url)
    process.run(count_at_once, url, 5)
    with psycopg.connect(empty_database, autocommit=True) as administrator:
        ended = administrator.execute(END_OTHERS, {"name": administrator.info.dbname}).rowcount
    assert ended > 1
    assert process.run(count_at_once, url, 5) == [("counted", 10, 100)]


def test_postgresql_ends_what_a_frozen_worker_began(
    process: GeventProcess, empty_database: str
) -> None:
    """By a timeout that ends with the transaction: a pooler gives the session to others."""
    url = empty_database.replace("://", "+psycopg://")
    assert process.run(timeouts, url) == ("10s", "0")


def test_a_primary_that_becomes_a_standby_is_away_until_there_is_one_that_writes(
    process: GeventProcess, empty_database: str
) -> None:
    url = empty_database.replace("://", "+psycopg://")
    process.run(create, url)
    name = empty_database.rpartition("/")[2]
    with psycopg.connect(empty_database, autocommit=True) as administrator:
        # Sessions keep what they began with, as those of a lost primary do.
        administrator.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        standby = url + "?application_name=standby"
        with pytest.raises(StoreUnavailable):
            process.run(put, standby, "refused")
        administrator.execute("SET default_transaction_read_only = off")
        administrator.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
    wait_until(lambda: process.run(ping, standby), 5, "the way back")
    assert process.run(put, standby, "taken")


def test_a_postgresql_that_is_frozen_is_away_in_time(
    process: GeventProcess, postgres: Postgres, fresh_database: str
) -> None:
    url = fresh_database.replace("://", "+psycopg://")
    process.run(create, url)
    postgres.pause()
    assert process.run(put_within, url, SLOW / 5) == "the caller's timeout"
    postgres.resume()
    wait_until(lambda: process.run(ping, url), 5, "the way back")
    postgres.pause()
    error, took = process.run(failing, url)
    assert (error, SLOW * 0.9 < took < SLOW * 2) == ("StoreUnavailable", True)
    postgres.resume()
    wait_until(lambda: process.run(ping, url), 5, "the way back")
