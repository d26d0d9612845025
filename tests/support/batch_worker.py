"""`flask worker` with an executor whose lines are files of a folder, for tests of the process.

`waiting/<name>` holds how many seconds the line takes; `done/<name>` the id of the process that ran
it, one for each time.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from pathlib import Path

import gevent

from webapp import batch_worker  # patches everything


class FolderExecutor:
    """Runs one line after the other."""

    def __init__(self, folder: Path) -> None:
        self._waiting, self._running = folder / "waiting", folder / "running"
        self._done, self._runs = folder / "done", folder / "runs"
        self._stopping = False
        self._line: gevent.Greenlet | None = None

    def wake(self) -> None:
        """It looks for the next line with each line."""

    def run_for(self, seconds: float) -> bool:
        with self._runs.open("a") as runs:
            runs.write(f"{os.getpid()}\n")
        give_up_at = time.monotonic() + seconds
        while not self._stopping and time.monotonic() < give_up_at:
            line = self._claim()
            if line is None:
                return False
            self._line = gevent.spawn(self._run, line)
            self._line.join()
        return not self._stopping

    def stop(self, grace: float) -> None:
        """Wait for the line that runs; if it takes too long, give it back."""
        self._stopping = True
        if self._line:
            self._line.join(grace - 0.5)
            self._line.kill()

    def _claim(self) -> Path | None:
        for line in sorted(self._waiting.iterdir()):
            with suppress(FileNotFoundError):
                return line.rename(self._running / line.name)
        return None

    def _run(self, line: Path) -> None:
        try:
            gevent.sleep(float(line.read_text()))
        except gevent.GreenletExit:
            line.rename(self._waiting / line.name)
            return
        with (self._done / line.name).open("a") as done:
            done.write(f"{os.getpid()}\n")
        line.unlink()


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    batch_worker.main(lambda _: FolderExecutor(folder))
