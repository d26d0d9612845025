"""What becomes of a database that is older, newer, or not Weir's at all."""

from __future__ import annotations

import json
import logging
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import text

from tests.conftest import MakeWeir
from tests.support.kept_database import load, migrate
from tests.support.servers import DidNotStart, Weir
from webapp.storage import migrations
from webapp.storage.database import Database

KEY = "prod_key_456"
LATER = "9999_of_a_later_version"


def stamp(database: Database, *revisions: str) -> None:
    """Write revisions as Alembic does, and no schema."""
    with database.engine.begin() as connection:
        connection.execute(text("CREATE TABLE IF NOT EXISTS alembic_version (version_num TEXT)"))
        connection.execute(text("DELETE FROM alembic_version"))
        for revision in revisions:
            values = {"revision": revision}
            connection.execute(text("INSERT INTO alembic_version VALUES (:revision)"), values)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{request.getfixturevalue('tmp_path')}/weir.db"
    fresh: str = request.getfixturevalue("empty_database")
    return fresh.replace("postgresql://", "postgresql+psycopg://")


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    database = Database(url)
    yield database
    database.engine.dispose()


def test_an_older_database_is_migrated(database: Database) -> None:
    with database.engine.begin() as connection:
        migrate(connection, "0002_idempotency_keys")
    assert migrations.upgrade(database)
    assert database.read(migrations.current) == migrations.head()


def test_the_file_of_an_earlier_version_is_taken_from_other_users(tmp_path: Path) -> None:
    folder = tmp_path / "shared"
    folder.mkdir(mode=0o755)
    file = folder / "weir.db"
    with closing(sqlite3.connect(file)) as earlier:
        earlier.execute("PRAGMA journal_mode=WAL")
        earlier.execute("CREATE TABLE of_an_earlier_version (id INTEGER)")
        (folder / "weir.db.migrating").touch(0o644)
        for path in folder.iterdir():
            path.chmod(0o644)
        assert migrations.upgrade(Database(f"sqlite:///{file}"))
        modes = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
    assert modes == dict.fromkeys(
        ["weir.db", "weir.db-wal", "weir.db-shm", "weir.db.migrating"], 0o600
    )
    assert folder.stat().st_mode & 0o777 == 0o755


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_the_file_of_another_user_is_left_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "weir.db"
    file.touch()
    os.chown(file, 65_534, -1)
    file.chmod(0o664)
    assert migrations.upgrade(Database(f"sqlite:///{file}"))
    assert file.stat().st_mode & 0o777 == 0o664


def test_a_newer_database_is_taken_as_it_is(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    migrations.upgrade(database)
    stamp(database, LATER)
    with caplog.at_level(logging.INFO):
        assert not migrations.upgrade(database)
    assert database.read(migrations.current) == LATER
    [said] = [one.getMessage() for one in caplog.records if one.name == migrations.__name__]
    assert LATER in said
    assert migrations.head() in said


def test_a_database_that_a_rotated_url_leads_to_must_be_migrated(
    fresh_database: str, empty_database: str
) -> None:
    database, empty = Database(fresh_database), Database(empty_database)
    assert database.read(migrations.is_usable)
    assert not empty.read(migrations.is_usable)
    for revision, is_usable in (("0001_keys_and_traffic", False), (LATER, True)):
        stamp(database, revision)
        assert database.read(migrations.is_usable) is is_usable
    database.engine.dispose()
    empty.engine.dispose()


@pytest.mark.parametrize(
    "found",
    [
        ["garbage"], [""], ["0003_of_nobody"], ["1a2b3c4d5e6f"], ["99999_of_nobody"],
        [migrations.head()[:5] + "of_nobody"], [migrations.head(), LATER],
    ],
    ids=str,
)  # fmt: skip
def test_what_is_no_revision_of_weir_is_named(database: Database, found: list[str]) -> None:
    stamp(database, *found)
    with pytest.raises(migrations.UnknownRevision) as raised:
        migrations.upgrade(database)
    for revision in found:
        assert repr(revision) in str(raised.value)
    with database.engine.connect() as connection:
        left = connection.execute(text("SELECT version_num FROM alembic_version")).scalars().all()
    assert sorted(left) == sorted(found)


def at(url: str, new_weir: MakeWeir, revision: str) -> Weir:
    """A Weir, not started, whose database is filled and says that it is at a revision."""
    load(url, "0004_dashboard")
    database = Database(url)
    migrations.upgrade(database)
    stamp(database, revision)
    database.engine.dispose()
    return new_weir(DATABASE_URL=url)


def test_a_version_starts_on_a_later_schema(url: str, new_weir: MakeWeir) -> None:
    weir = at(url, new_weir, LATER).start()
    assert weir.post("/chat", key=KEY, json={"message": "hello"}).status_code == 200
    assert weir.get("/health").json()["checks"]["database"] == "healthy"
    said = [line for line in weir.logs() if LATER in line.get("message", "")]
    assert [line["level"] for line in said] == ["info"], "once, by its one worker"


def test_its_release_step_and_its_doctor_say_so(url: str, new_weir: MakeWeir) -> None:
    weir = at(url, new_weir, LATER)
    released = weir.run_flask("db", "upgrade")
    assert released.returncode == 0, released.stderr
    found = f"At {LATER}, newer than this version's {migrations.head()}: nothing to do.\n"
    assert released.stdout == found
    done = weir.run_flask_process("doctor", "--json")
    findings = [one for one in json.loads(done.stdout) if one["check"] == "database"]
    assert {one["status"] for one in findings} == {"ok"}
    assert any(LATER in one["found"] for one in findings), findings
    assert weir.run_flask("keys", "list").returncode == 0


def test_a_database_that_is_not_weir_s_stops_the_start(url: str, new_weir: MakeWeir) -> None:
    weir = at(url, new_weir, "1a2b3c4d5e6f")
    with pytest.raises(DidNotStart) as ended:
        weir.start()
    assert ended.value.exit_code == 3, "Gunicorn's WORKER_BOOT_ERROR"
    assert "'1a2b3c4d5e6f'" in ended.value.output
    for command in (["db", "upgrade"], ["keys", "list"]):
        done = weir.run_flask(*command)
        assert done.returncode == 1
        assert "\nError: " in done.stderr
        assert "'1a2b3c4d5e6f'" in done.stderr
        assert "Traceback" not in done.stderr
    done = weir.run_flask_process("doctor", "--json")
    assert done.returncode == 1
    problems = [one for one in json.loads(done.stdout) if one["status"] == "problem"]
    assert any("'1a2b3c4d5e6f'" in one["found"] for one in problems), problems
