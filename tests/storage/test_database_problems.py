"""A database that answers but refuses to write: told as what it is, once, and found again."""

from __future__ import annotations

import logging
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import Connection, event, text

import webapp.storage.database
from tests.conftest import MakeWeir
from tests.support.servers import wait_until
from webapp.errors import StoreUnavailable
from webapp.storage.database import Database

KEY = "prod_key_456"
ROW = "x" * 8_000
FULL_DISK = "DO $$ BEGIN RAISE 'could not extend file' USING ERRCODE = '53100'; END $$"


@dataclass(frozen=True, slots=True)
class Refusing:
    """A database, a write that it refuses, the words for that, and what mends it."""

    database: Database
    write: Callable[[Connection], object]
    words: str
    mend: Callable[[], object]


def insert(connection: Connection) -> None:
    for _ in range(50):
        connection.execute(text("INSERT INTO notes VALUES (:row)"), {"row": ROW})


@pytest.fixture(params=["sqlite full", "sqlite read-only", "postgresql full"])
def refusing(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Refusing]:
    if request.param == "postgresql full":
        url = request.getfixturevalue("empty_database").replace("://", "+psycopg://")
        words, mend = "disk of PostgreSQL is full", lambda: None
        made = Refusing(Database(url), lambda c: c.execute(text(FULL_DISK)), words, mend)
    else:
        file = tmp_path / "weir.db"
        with closing(sqlite3.connect(file)) as connection:
            connection.execute("CREATE TABLE notes (text TEXT)")
        words, pragma = "disk of the database is full", "PRAGMA max_page_count = 4"
        if request.param == "sqlite read-only":
            words, pragma = "file is read-only", "PRAGMA query_only = ON"
        database = Database(f"sqlite:///{file}")
        settings = [pragma]
        event.listen(database.engine, "connect", lambda c, _: [c.execute(p) for p in settings])

        def mend() -> None:
            settings.clear()
            database.engine.dispose()

        made = Refusing(database, insert, words, mend)
    yield made
    made.database.engine.dispose()


def test_it_is_told_once_why_nothing_can_be_written_and_others_read(
    refusing: Refusing, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = refusing.database
    for _ in range(5):
        with pytest.raises(StoreUnavailable) as refused:
            database.write(refusing.write)
        assert refused.value.logged
        assert database.ping(), "it answers"
        assert database.unavailable
        assert database.problem
        assert refusing.words in database.problem.found
    [line] = [record.message for record in caplog.records]
    assert refusing.words in line
    monkeypatch.setattr(webapp.storage.database, "PROBLEM_TTL", 0.0)
    caplog.clear()
    refusing.mend()
    with caplog.at_level(logging.WARNING):
        database.write(lambda connection: connection.execute(text("SELECT 1")))
    assert database.problem is None
    assert not database.unavailable
    assert [record.message for record in caplog.records] == ["The database takes writes again"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 4 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root may mount a disk")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def fill(file: Path) -> None:
    with file.open("wb", buffering=0) as filling:
        try:
            while True:
                filling.write(b"x" * 4096)
        except OSError:
            return


def test_a_full_disk_is_named_by_health_log_and_doctor_until_there_is_room(
    new_weir: MakeWeir, small_disk: Path
) -> None:
    tiers = "free=9999/minute;premium=9999/minute"
    weir = new_weir(data_dir=small_disk / "data", TIERS=tiers).start()
    fill(small_disk / "fill")

    def told() -> bool:
        weir.post("/chat", key=KEY, json={"message": "hello"})
        return weir.get("/health").status_code == 503

    wait_until(told, 10, "the loss")
    detailed = weir.get("/health/detailed").json()["checks"]["database"]
    assert "disk of the database is full" in detailed["error"]
    assert "disk of the database is full" in weir.run_flask_process("doctor").stdout
    (small_disk / "fill").unlink()
    wait_until(lambda: weir.get("/health").json()["checks"]["database"] == "healthy", 15)
    assert weir.post("/chat", key=KEY, json={"message": "again"}).status_code == 200
    lines = [line["message"] for line in weir.logs() if "database" in str(line.get("message"))]
    assert [line for line in lines if "unreachable" in line or "unavailable" in line] == []
    assert len([line for line in lines if "disk of the database is full" in line]) == 1
