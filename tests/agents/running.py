"""Runs an agent headless in an empty environment, a home and a working folder of its own."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.servers import wait_until

# Agents do not stop by themselves where they wait for a limit to end.
TIMEOUT = 180.0
# More than the first pause of either agent before it tries again.
WAITS_AFTER = 4.0
FILE = "fact.txt"


@dataclass(frozen=True, slots=True)
class Run:
    """What came of a run; its exit code is None if it had to be ended."""

    exit_code: int | None
    stdout: str
    stderr: str


class Workplace:
    """A short-lived home and working folder; the file in it has a word that nobody can guess."""

    def __init__(self) -> None:
        # Below /tmp, and not pytest's: the stand-in repeats only the start of what a tool says.
        self._folder = Path(tempfile.mkdtemp(prefix="weir-agent-"))
        self.home = self._folder / "home"
        self.work = self._folder / "work"
        self.secret = secrets.token_hex(8)
        self.home.mkdir()
        self.work.mkdir()
        (self.work / FILE).write_text(f"The weir was built by {self.secret}.\n")

    def run(
        self, command: list[str], environ: Mapping[str, str], *, until: str | None = None
    ) -> Run:
        """Run a command to its end, or until a while after its output has these words.

        It gets nothing of the machine's but PATH: no proxy, no key, no setting.
        """
        outputs = [self._folder / name for name in ("stdout", "stderr")]
        with outputs[0].open("wb") as stdout, outputs[1].open("wb") as stderr:
            process = subprocess.Popen(
                command,
                cwd=self.work,
                env={"PATH": os.environ["PATH"], "HOME": str(self.home), **environ},
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
            )

        def said(words: str) -> bool:
            return any(words in output.read_text(errors="replace") for output in outputs)

        def done() -> bool:
            return process.poll() is not None or (until is not None and said(until))

        try:
            with suppress(TimeoutError, subprocess.TimeoutExpired):
                wait_until(done, TIMEOUT, pause=0.05)
                process.wait(WAITS_AFTER)
            exit_code = process.poll()
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        return Run(exit_code, *(output.read_text(errors="replace") for output in outputs))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
