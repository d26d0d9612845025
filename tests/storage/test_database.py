"""SQLite under gevent: writes in turn, reads beside them, and nothing of what was given up."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.servers import REPOSITORY

GIVEN_UP = """
from gevent import monkey; monkey.patch_all()
import sqlite3, sys, gevent
from sqlalchemy import text
from webapp.errors import StoreUnavailable
from webapp.storage.database import RETRY_INTERVAL, Database
database = Database(f"sqlite:///{sys.argv[1]}")
insert = lambda number: database.write(
    lambda c: c.execute(text("INSERT INTO numbers VALUES (:n)"), {"n": number}), timeout=0.2)
database.write(lambda c: c.execute(text("CREATE TABLE numbers (n)")))
other = sqlite3.connect(sys.argv[1], isolation_level=None)
other.execute("BEGIN IMMEDIATE")
try:
    insert(1)
except StoreUnavailable:
    other.rollback()
    gevent.sleep(RETRY_INTERVAL)
    insert(2)
    print(database.read(lambda c: c.execute(text("SELECT n FROM numbers")).scalars().all()))
"""

MANY = """
from gevent import monkey; monkey.patch_all()
import sys, gevent
from sqlalchemy import text
from webapp.storage.database import Database
database = Database(f"sqlite:///{sys.argv[1]}")
database.write(lambda c: c.execute(text("CREATE TABLE numbers (n)")))
for _ in range(5):
    running = [gevent.spawn(database.write, lambda c: c.execute(
        text("INSERT INTO numbers VALUES (1)"))) for _ in range(50)]
    running += [gevent.spawn(database.read, lambda c: c.execute(
        text("SELECT count(*) FROM numbers")).scalar()) for _ in range(50)]
    for one in gevent.joinall(running):
        one.get()
print(database.read(lambda c: c.execute(text("SELECT count(*) FROM numbers")).scalar()))
"""


def run(program: str, tmp_path: Path) -> str:
    """What a program prints that gets the path of a database, in a process that gevent runs."""
    command = [sys.executable, "-c", program, str(tmp_path / "weir.db")]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


def test_a_write_that_was_given_up_leaves_nothing(tmp_path: Path) -> None:
    """Its native thread goes on waiting for the lock, and gets it after all."""
    assert run(GIVEN_UP, tmp_path) == "[2]"


def test_many_reads_and_writes_at_once_all_succeed(tmp_path: Path) -> None:
    assert run(MANY, tmp_path) == "250"
