"""Keeps an SQLite database and the files beside it for their user alone."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

PRIVATE = 0o600
# SQLite gives those that it makes later the mode of the database.
SUFFIXES = ("", "-wal", "-shm", ".migrating")


def create(path: str, flags: int = os.O_RDWR) -> int:
    """Open a file as os.open() does; a new one is its user's alone. An opener for open()."""
    return os.open(path, flags | os.O_CREAT, PRIVATE)


def create_database(path: str) -> None:
    """Make the file, empty, before SQLite does with the permissions of the umask."""
    # Only a new file is opened: closing another one would end SQLite's locks on it. Whatever else
    # is wrong, SQLite says when it opens the file.
    with suppress(OSError):
        os.close(create(path, os.O_RDWR | os.O_EXCL))


def restrict(path: str) -> None:
    """Take the permissions of others from a database that an earlier version has made.

    Files of another owner are left as they are.
    """
    for suffix in SUFFIXES:
        file = Path(path + suffix)
        with suppress(OSError):
            status = file.stat()
            if status.st_uid == os.geteuid() and stat.S_IMODE(status.st_mode) & 0o077:
                file.chmod(PRIVATE)
