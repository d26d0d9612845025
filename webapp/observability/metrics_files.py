"""The files in which workers count: those of workers that are gone are added up in one.

Else a worker that dies again and again would leave more and more of them, each to be read with
every scrape.
"""

from __future__ import annotations

import contextlib
import fcntl
import time
from collections.abc import Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from webapp.library_internals import add_metrics_file, metrics_file

GONE = 0  # stands for all workers that are gone: no process has this id
KINDS = ("counter", "histogram")
LOCK_TIMEOUT = 1.0  # seconds


def read(folder: Path) -> bytes:
    """What all workers have counted, in Prometheus's text format."""
    registry = CollectorRegistry(auto_describe=False)
    MultiProcessCollector(registry, str(folder))  # type: ignore[no-untyped-call]
    with _locked(folder, fcntl.LOCK_SH):
        return generate_latest(registry)


def add_up(folder: Path, pid: int) -> None:
    """A worker is gone: what it has counted stays, what it had in use does not.

    Whoever reads meanwhile is waited for; one that was frozen while it read, not for long.
    """
    mark_process_dead(pid, str(folder))  # type: ignore[no-untyped-call]
    until = time.monotonic() + LOCK_TIMEOUT
    while time.monotonic() < until:
        with contextlib.suppress(BlockingIOError), _locked(folder, fcntl.LOCK_EX | fcntl.LOCK_NB):
            for kind in KINDS:
                _add(metrics_file(folder, kind, pid), metrics_file(folder, kind, GONE))
            return
        time.sleep(0.01)


def _add(file: Path, total: Path) -> None:
    if file.exists():
        add_metrics_file(file, total)
        file.unlink()


@contextlib.contextmanager
def _locked(folder: Path, how: int) -> Iterator[None]:
    """Raises BlockingIOError where it shall not wait."""
    with (folder / "lock").open("a") as lock:
        fcntl.flock(lock, how)
        yield
