"""The database: one engine, short transactions, and fast failure while it is unavailable."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

import gevent
from sqlalchemy import (
    Connection,
    Engine,
    Float,
    MetaData,
    RootTransaction,
    Table,
    create_engine,
    event,
    text,
)
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.pool import Pool, QueuePool, SingletonThreadPool
from sqlalchemy.sql.functions import FunctionElement

from webapp.errors import StoreUnavailable
from webapp.storage.database_problems import DatabaseProblem, problem_of
from webapp.storage.instrumentation import InstrumentationHook
from webapp.storage.private_files import create_database
from webapp.threads import NativeThreads

log = logging.getLogger(__name__)

metadata = MetaData()

Result = TypeVar("Result")

CONNECT_TIMEOUT = 3
ANSWER_TIMEOUT = 5.0
RETRY_INTERVAL = 0.5
FROZEN_TIMEOUT = 10
SQLITE_BUSY_TIMEOUT = 4
# An execution option for statements that read many bytes, which PostgreSQL writes as hexadecimal
# digits otherwise.
IN_BINARY = {"in_binary": True}
# Native threads for SQLite. It allows one writer at a time; a second one prepares its statements
# meanwhile, more would only wait for the lock. With 8 readers, long reports do not block look-ups
# of keys.
SQLITE_WRITERS, SQLITE_READERS = 2, 8
FRESH_TTL = 30.0
# A full disk takes a small write now and then: for this long a refused one counts.
PROBLEM_TTL = 5.0
PROBLEM_LOG_INTERVAL = 300.0
READ_ONLY = "25006"  # PostgreSQL's code of a standby that refuses to write


class Database:
    """Runs units of work, each in a transaction of its own.

    PostgreSQL's driver cooperates with gevent. SQLite's calls block, so under gevent they run in
    native threads, outside the event loop: no commit stalls a stream. `instrument` wraps each
    transaction.
    """

    def __init__(self, url: str, instrument: InstrumentationHook = nullcontext) -> None:
        self.url = make_url(url)
        self.instrument = instrument
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self.engine = self._sqlite_engine() if self.is_sqlite else self._postgres_engine()
        self._reading = self.engine.execution_options(reading=True)
        self._threads = {
            self.engine: NativeThreads(SQLITE_WRITERS),
            self._reading: NativeThreads(SQLITE_READERS),
        }
        self.last_seen: float | None = None
        self._unavailable = False
        self._retry_at = 0.0
        self._problem: DatabaseProblem | None = None
        self._refused_at = self._logged_at = 0.0

    def write(
        self, work: Callable[[Connection], Result], *, timeout: float | None = ANSWER_TIMEOUT
    ) -> Result:
        """Run `work` in one transaction and return its result.

        Raises StoreUnavailable when the database cannot be reached or does not answer in
        `timeout` seconds.
        """
        return self._run("write", self.engine, work, timeout)

    def read(self, work: Callable[[Connection], Result]) -> Result:
        """As write(), for work that changes nothing: on SQLite it does not wait for writers."""
        return self._run("read", self._reading, work, ANSWER_TIMEOUT)

    @property
    def unavailable(self) -> bool:
        """Whether the latest attempt to reach it failed, or it refuses to write."""
        return self._unavailable or self.problem is not None

    @property
    def problem(self) -> DatabaseProblem | None:
        """Why it refuses to write though it answers, if it lately has."""
        lately = time.monotonic() - self._refused_at < PROBLEM_TTL
        return self._problem if lately else None

    def _run(
        self,
        operation: str,
        engine: Engine,
        work: Callable[[Connection], Result],
        timeout: float | None,
    ) -> Result:
        now = time.monotonic()
        if now < self._retry_at:
            raise StoreUnavailable
        if self._unavailable:
            # One request tries; the others fail at once until its result is known.
            self._retry_at = now + ANSWER_TIMEOUT
        try:
            with self.instrument(operation):
                result = self._attempt(engine, work, timeout)
        except StoreUnavailable as error:
            if problem := problem_of(error.__cause__):
                # It answers: others may read.
                self._unavailable, self._retry_at = False, 0.0
                self._refused(problem)
                error.logged = True
                raise
            self._unavailable = True
            self._retry_at = time.monotonic() + RETRY_INTERVAL
            raise
        self._unavailable, self._retry_at = False, 0.0
        if operation == "write" and self._problem and not self.problem:
            log.warning("The database takes writes again")
            self._problem = None
        self.last_seen = time.monotonic()
        return result

    def _refused(self, problem: DatabaseProblem) -> None:
        now = time.monotonic()
        if problem != self._problem or now - self._logged_at > PROBLEM_LOG_INTERVAL:
            log.error("The database refuses to write: %s. %s", problem.found, problem.advice)
            self._logged_at = now
        self._problem, self._refused_at = problem, now

    def _attempt(
        self, engine: Engine, work: Callable[[Connection], Result], timeout: float | None
    ) -> Result:
        given_up = False

        def transact() -> Result:
            with engine.connect() as connection, _begin(connection):
                result = work(connection)
                if given_up:
                    raise StoreUnavailable  # roll back: the caller has already timed out
                return result

        own_timeout = gevent.Timeout(timeout)
        try:
            with own_timeout:
                return self._threads[engine].run(transact) if self.is_sqlite else transact()
        except gevent.Timeout as expired:
            if expired is not own_timeout:
                raise
            given_up = True
            raise StoreUnavailable from expired
        except DBAPIError as error:
            # If a wait for the BEGIN is ended, the clean-up fails and hides the reason.
            ended_by = error.orig.__context__ if error.orig else None
            if ended_by is own_timeout:
                raise StoreUnavailable from error
            if ended_by and not isinstance(ended_by, Exception):
                raise ended_by from error
            if getattr(error.orig, "sqlstate", None) == READ_ONLY:
                engine.dispose()  # a name may lead to the new primary
                raise StoreUnavailable from error
            if error.connection_invalidated or isinstance(error, OperationalError):
                raise StoreUnavailable from error
            raise
        except PoolTimeout as error:
            raise StoreUnavailable from error

    @property
    def shown(self) -> str:
        """Its URL for people: without the password, and what else is in the query."""
        if self.is_sqlite:
            return f"sqlite:///{Path(self.url.database or '').resolve()}"
        url = self.url
        hosts = {name: value for name, value in url.query.items() if name == "host"}
        plain = URL.create(
            url.get_backend_name(), url.username, None, url.host, url.port, url.database, hosts
        )
        return plain.render_as_string()

    def use(self, url: str, *, check: Callable[[Connection], Result]) -> Result:
        """Make all further connections with another URL of PostgreSQL, if `check` finds it good.

        Returns what it found; a false result leaves the present URL in use. What runs goes on, and
        its connection closes then. Raises StoreUnavailable if the URL does not work.
        """
        new = Database(url)
        try:
            found = new.read(check)
        except BaseException:
            new.engine.dispose()
            raise
        if not found:
            new.engine.dispose()
            return found
        old = self.engine.pool
        self.url, self.engine = new.url, new.engine
        self._reading = new.engine.execution_options(reading=True)
        self._unavailable, self._retry_at = False, 0.0
        gevent.spawn(_close_when_unused, old)
        return found

    def connections(self) -> dict[str, int]:
        """The number of connections in use and idle. Empty for SQLite, which has one for each
        native thread."""
        pool = self.engine.pool
        if not isinstance(pool, QueuePool):
            return {}
        return {"in_use": pool.checkedout(), "idle": pool.checkedin()}

    def seen_lately(self) -> bool:
        """Whether a transaction succeeded, or a ping does now, within the last 30 s."""
        if self.last_seen and time.monotonic() - self.last_seen < FRESH_TTL:
            return True
        return self.ping()

    def ping(self) -> bool:
        try:
            self.read(lambda connection: connection.execute(text("SELECT 1")).scalar())
        except (StoreUnavailable, SQLAlchemyError):
            return False
        return True

    def _sqlite_engine(self) -> Engine:
        # A connection for each native thread: closing the last connection would write back the
        # whole WAL, which takes longer than a transaction. With more threads than pool_size, the
        # pool would close connections that are in use.
        engine = create_engine(
            self.url,
            hide_parameters=True,  # otherwise errors would log them
            poolclass=SingletonThreadPool,
            pool_size=SQLITE_WRITERS + SQLITE_READERS,
            connect_args={"timeout": SQLITE_BUSY_TIMEOUT},
        )

        @event.listens_for(engine, "do_connect")
        def create(_dialect: Any, _record: Any, arguments: list[str], _options: Any) -> None:
            create_database(arguments[0])

        @event.listens_for(engine, "connect")
        def prepare(connection, _record):  # type: ignore[no-untyped-def]
            connection.isolation_level = None  # SQLAlchemy's BEGIN below, not the driver's
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
            connection.execute("PRAGMA foreign_keys=ON")

        @event.listens_for(engine, "begin")
        def begin(connection: Connection) -> None:
            # A writer takes the lock at once: upgrading to it later fails without waiting.
            reading = connection.get_execution_options().get("reading")
            connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")

        return engine

    def _postgres_engine(self) -> Engine:
        """An engine that leaves nothing in a session: with a pooler in transaction mode, each
        transaction may get another one. The settings of a transaction are sent with its BEGIN, in
        the same round trip, and end with it."""
        engine = create_engine(
            self.url.difference_update_query(["schema"]),
            hide_parameters=True,  # otherwise errors would log them
            isolation_level="AUTOCOMMIT",  # the BEGIN below, not the driver's
            paramstyle="format",  # positions, for execute_rows()
            pool_size=5,
            max_overflow=5,
            pool_timeout=CONNECT_TIMEOUT,
            connect_args={
                "connect_timeout": CONNECT_TIMEOUT,
                "keepalives_idle": 5,
                "keepalives_interval": 2,
                "keepalives_count": 2,
                "tcp_user_timeout": int(ANSWER_TIMEOUT * 1000),
                "prepare_threshold": None,  # prepared statements belong to a session
            },
        )
        schemas = _quoted(self.url.query.get("schema", ""))

        @event.listens_for(engine, "connect")
        def prepare(connection, record):  # type: ignore[no-untyped-def]
            # Limits how long others wait for the locks of a frozen worker or a lost replica.
            # Older servers only detect workers that froze between two statements.
            recent = connection.info.server_version >= 170000
            name = "transaction_timeout" if recent else "idle_in_transaction_session_timeout"
            statements = ["BEGIN", f"SET LOCAL {name} = '{FROZEN_TIMEOUT}s'"]
            if schemas:
                statements.append(f"SET LOCAL search_path = {schemas}")
            record.info["begin"] = "; ".join(statements)

        @event.listens_for(engine, "begin")
        def begin(connection: Connection) -> None:
            connection.exec_driver_sql(connection.info["begin"])

        @event.listens_for(engine, "before_cursor_execute")
        def choose_format(connection, cursor, statement, parameters, context, many):  # type: ignore[no-untyped-def]
            if context.execution_options.get("in_binary"):
                cursor.format = 1  # psycopg.pq.Format.BINARY

        return engine


def _close_when_unused(pool: Pool) -> None:
    """Close a pool's idle connections, and those in use once they are given back."""
    assert isinstance(pool, QueuePool)
    while pool.checkedout():
        gevent.sleep(RETRY_INTERVAL)
    pool.dispose()


def _begin(connection: Connection) -> RootTransaction:
    """Begin a transaction. That finds out whether an idle connection is still good; if not,
    nothing is lost yet, and the second attempt opens another one."""
    try:
        return connection.begin()
    except DBAPIError as error:
        if not error.connection_invalidated:
            raise
        return connection.begin()


def _quoted(schemas: str | tuple[str, ...]) -> str:
    """Comma-separated names of schemas as SQL."""
    names = schemas if isinstance(schemas, tuple) else schemas.split(",")
    quoted = ('"' + name.strip().strip('"').replace('"', '""') + '"' for name in names if name)
    return ", ".join(quoted)


class DatabaseTime(FunctionElement[float]):
    """Unix seconds by the database's clock, as the clocks of replicas may differ."""

    type = Float()
    inherit_cache = True


@compiles(DatabaseTime, "postgresql")
def _postgres_time(*_: Any, **__: Any) -> str:
    # A sub-select is read once for a statement, so that an index can be used.
    return "(SELECT extract(epoch FROM clock_timestamp())::float8)"


@compiles(DatabaseTime, "sqlite")
def _sqlite_time(*_: Any, **__: Any) -> str:
    # Older versions of SQLite have no unixepoch('subsec').
    return "((julianday('now') - 2440587.5) * 86400.0)"


def upsert(dialect_name: str, table: Table) -> Any:
    """An INSERT that knows what to do on a conflict. Of the dialects, only the one in use is
    imported: each takes 2 MB."""
    return import_module(f"sqlalchemy.dialects.{dialect_name}").insert(table)


def increment(
    connection: Connection, table: Table, counters: Sequence[str], *, returning: bool = False
) -> Any:
    """A statement that adds to the counters of rows, and inserts missing rows.

    `returning` gives the rows as they are then, in any order.
    """
    return _increment(connection.dialect.name, table, tuple(counters), returning)


@lru_cache
def _increment(dialect_name: str, table: Table, counters: tuple[str, ...], returning: bool) -> Any:
    statement = upsert(dialect_name, table)
    incrementing = statement.on_conflict_do_update(
        index_elements=list(table.primary_key.columns),
        set_={name: table.c[name] + statement.excluded[name] for name in counters},
    )
    return incrementing.returning(table) if returning else incrementing
