"""Processes of `flask worker` whose lines are files, and what the broker holds."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support.servers import REPOSITORY, Server


class Lines:
    """Lines of batches as files; see `tests.support.batch_worker`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("waiting", "running", "done"):
            (folder / name).mkdir()

    def add(self, *names: str, seconds: float = 0.0) -> None:
        for name in names:
            draft = self.folder / name
            draft.write_text(str(seconds))
            draft.rename(self.folder / "waiting" / name)

    def names(self, state: str) -> list[str]:
        return sorted(file.name for file in (self.folder / state).iterdir())

    def done_by(self, name: str) -> list[int]:
        """The processes that have run a line."""
        return [int(pid) for pid in (self.folder / "done" / name).read_text().split()]

    def runs(self) -> int:
        """How often an executor was asked to work."""
        file = self.folder / "runs"
        return len(file.read_text().split()) if file.exists() else 0


class WorkerProcess(Server):
    """`flask worker` in a clean environment, ready when it has begun to work."""

    # Tests of the end call terminate().
    stop_signal = signal.SIGKILL

    def __init__(self, lines: Lines, data_dir: Path, env: Mapping[str, object]) -> None:
        super().__init__()
        self._lines = lines
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "DATA_DIR": str(data_dir),
        } | {name: str(value) for name, value in env.items()}

    @property
    def pid(self) -> int:
        assert self.process
        return self.process.pid

    def messages(self) -> list[str]:
        """What it has logged."""
        lines = self._output_files()[0].read_text().splitlines()
        return [json.loads(line)["message"] for line in lines if line.startswith("{")]

    def terminate(self, number: int, timeout: float = 30.0) -> int:
        """Send a signal, wait for the end and return the exit code."""
        assert self.process
        self.process.send_signal(number)
        return self.process.wait(timeout)

    def _command(self) -> list[str]:
        return [sys.executable, "-m", "tests.support.batch_worker", str(self._lines.folder)]

    def _process_options(self) -> dict[str, Any]:
        return {"cwd": REPOSITORY, "env": self.env}

    def _is_ready(self) -> bool:
        return any("Working on batches" in message for message in self.messages())
