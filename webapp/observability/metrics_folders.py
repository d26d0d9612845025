"""The folder in which the workers of one master count.

A master that is killed cannot remove its folder, so each start removes those of masters that are
gone. A lock says who is alive, as process ids mean nothing to another container. Workers inherit it
and end soon after their master, so no folder is removed that somebody still writes to; a program
that a process executes does not inherit it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

PREFIX = "weir-metrics-"
LOCK = "master.lock"

# Never closed: a reload reads Gunicorn's configuration again, and must not free the lock.
_held: list[int] = []


def create(parent: str | None) -> Path:
    """Make a folder that is locked as long as this process lives."""
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
    draft = folder / f".{LOCK}"
    lock = os.open(draft, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    _held.append(lock)
    draft.rename(folder / LOCK)  # others see it only when it is locked
    return folder


def remove_abandoned(parent: Path) -> None:
    """Remove the folders that no master and none of its workers has any more."""
    for folder in parent.glob(f"{PREFIX}*"):
        with suppress(OSError):
            status = folder.lstat()
            if stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid():
                _remove_if_abandoned(folder)


def _remove_if_abandoned(folder: Path) -> None:
    lock = os.open(folder / LOCK, os.O_RDWR | os.O_NOFOLLOW)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(lock)
