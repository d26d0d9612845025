"""The metrics files of workers. The files of workers that are gone are merged into one.

Otherwise workers that are restarted again and again would leave a growing number of files, and
every scrape reads all of them.
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

GONE = 0  # the process id in the file of all workers that are gone: no process has it
KINDS = ("counter", "histogram")
LOCK_TIMEOUT = 1.0  # seconds


def read(folder: Path) -> bytes:
    """The metrics of all workers in Prometheus's text format."""
    registry = CollectorRegistry(auto_describe=False)
    MultiProcessCollector(registry, str(folder))  # type: ignore[no-untyped-call]
    with _locked(folder, fcntl.LOCK_SH):
        return generate_latest(registry)


def add_up(folder: Path, pid: int) -> None:
    """Merge the counters of a worker that is gone, and drop its gauges.

    This waits for a reader, but not longer than LOCK_TIMEOUT, as the reader may be frozen.
    """
    mark_process_dead(pid, str(folder))  # type: ignore[no-untyped-call]
    deadline = time.monotonic() + LOCK_TIMEOUT
    while time.monotonic() < deadline:
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
def _locked(folder: Path, operation: int) -> Iterator[None]:
    """Hold the folder's lock. With LOCK_NB, raises BlockingIOError if it is taken."""
    with (folder / "lock").open("a") as lock:
        fcntl.flock(lock, operation)
        yield
