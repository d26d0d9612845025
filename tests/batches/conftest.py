"""Workers whose lines are files, so that only the queue is the subject."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from tests.support.worker_process import Lines, WorkerProcess
from webapp.batches.doorbell import Doorbell

# `start_worker(NAME=value, …)` starts a worker with these settings, until the test ends.
StartWorker = Callable[..., WorkerProcess]
# Far below the interval of looks into the database: only a message can be as fast.
AT_ONCE = 4.0


@pytest.fixture
def lines(tmp_path: Path) -> Lines:
    folder = tmp_path / "lines"
    folder.mkdir()
    return Lines(folder)


@pytest.fixture
def start_worker(lines: Lines, tmp_path: Path, migrated_file: Path) -> Iterator[StartWorker]:
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    shutil.copy(migrated_file, data_dir)
    with ExitStack() as made:

        def start(**env: object) -> WorkerProcess:
            worker = WorkerProcess(lines, data_dir, {"OFFLINE": "1", **env})
            made.callback(_close, worker)
            return worker.start()

        yield start


def ring(broker: str) -> None:
    """Publish that a batch has work."""
    with closing(Doorbell(broker)) as doorbell:
        doorbell.ring("batch_1")


def _close(worker: WorkerProcess) -> None:
    print(worker.output())
    worker.close()
