"""Copies the SQLite database into one file while Weir runs."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from webapp.storage.private_files import PRIVATE


class BackupFailed(Exception):
    """No copy was made; the message says why."""


def copy_sqlite(source: Path, file: Path) -> int:
    """Write a consistent copy, which its user alone may read. Returns its size in bytes.

    It reads one snapshot: Weir goes on reading and writing meanwhile. Raises BackupFailed.
    """
    if file.exists():
        raise BackupFailed(f"{file}: File exists")
    # Until it is complete it has another name: whoever is killed meanwhile leaves no backup.
    part = file.with_name(f"{file.name}.part")
    try:
        part.unlink(missing_ok=True)
        # SQLite takes an empty file, and leaves it the permissions that it has.
        os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, PRIVATE))
    except OSError as error:
        raise BackupFailed(f"{part}: {error.strerror}") from None
    try:
        with closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=rw", uri=True)) as opened:
            opened.execute("VACUUM INTO ?", (str(part),))
        _check(part)
        _to_disk(part)
        part.rename(file)
        _to_disk(file.absolute().parent)
    except (sqlite3.Error, OSError) as error:
        raise BackupFailed(str(error)) from None
    finally:
        part.unlink(missing_ok=True)
    return file.stat().st_size


def _check(file: Path) -> None:
    with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as copy:
        [[result], *_] = copy.execute("PRAGMA quick_check").fetchall()
    if result != "ok":
        raise sqlite3.DatabaseError(f"the copy is damaged, and so may be the database: {result}")


def _to_disk(path: Path) -> None:
    """SQLite does not wait until the disk has a file, nor the system until it has its name."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
