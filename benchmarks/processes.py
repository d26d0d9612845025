"""Starts and stops servers, pins them to cores, and reads their memory.

The server that is measured has its own core; everything else shares the others.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import re
import resource
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

REPOSITORY = Path(__file__).resolve().parent.parent
START_TIMEOUT = 60.0  # seconds
STOP_TIMEOUT = 40.0  # seconds
POLL_INTERVAL = 0.005  # seconds
MEBIBYTE = 1024 * 1024
# Below the ports of outgoing connections, so that a polling client cannot connect to itself.
PORTS = range(20_000, 32_000)

COLOUR = re.compile(r"\x1b\[[0-9;]*m")

CORES = sorted(os.sched_getaffinity(0))
SERVER_CORES = set(CORES[:1])
OTHER_CORES = set(CORES[1:]) or SERVER_CORES


def allow_many_files() -> None:
    """Raise the limit of open files: each stream needs two."""
    _, maximum = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (maximum, maximum))


def free_port() -> int:
    while True:
        port = random.choice(PORTS)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port


class NotStarted(Exception):
    """A server ended, or was not ready in time. The message is the end of its log."""

    @property
    def reason(self) -> str:
        """The last line with an error, or else the last line."""
        plain = COLOUR.sub("", str(self))
        lines = [line.strip() for line in plain.splitlines() if line.strip()]
        errors = [line for line in lines if re.search("error|exception", line, re.IGNORECASE)]
        return (errors or lines or ["no output"])[-1][:300]


class Server:
    """A process with its children, used as a context manager."""

    def __init__(
        self,
        command: list[str],
        port: int,
        is_ready: Callable[[int], bool],
        *,
        environment: Mapping[str, str],
        folder: Path,
        cores: set[int],
        start_timeout: float = START_TIMEOUT,
        code: Path = REPOSITORY,
    ) -> None:
        self.port = port
        self.ready_after = 0.0
        self._command = command
        self._is_ready = is_ready
        self._environment = {"PATH": os.environ["PATH"], "HOME": str(folder), **environment}
        self._log = folder / f"{port}.log"
        self._cores = cores
        self._start_timeout = start_timeout
        self._code = code

    def memory(self) -> int:
        """PSS of the process and its descendants, in bytes."""
        return _pss_of_all(self._process.pid)

    def cpu_seconds(self) -> float:
        """The CPU time that the process and its descendants have used so far."""
        return cpu_of_all(self.pid)

    @property
    def pid(self) -> int:
        return self._process.pid

    def __enter__(self) -> Self:
        began = time.perf_counter()
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=self._code,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=lambda: os.sched_setaffinity(0, self._cores),
            )
        while not self._is_ready(self.port):
            if (
                self._process.poll() is not None
                or time.perf_counter() - began > self._start_timeout
            ):
                self._end()
                raise NotStarted(self._log.read_text(errors="replace")[-4000:].strip())
            time.sleep(POLL_INTERVAL)
        self.ready_after = time.perf_counter() - began
        return self

    def __exit__(self, *raised: object) -> None:
        self._end()

    def _end(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


def get(port: int, path: str) -> bytes:
    """The body of a GET with status 200. Raises OSError or HTTPException."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        content = response.read()
        if response.status != 200:
            raise http.client.HTTPException(f"{path} gave {response.status}")
        return content
    finally:
        connection.close()


def get_json(port: int, path: str) -> Any:
    """Like get(), as JSON."""
    return json.loads(get(port, path))


def cpu_of_all(pid: int) -> float:
    """The CPU seconds of a process and its descendants, from the clocks of
    clock_getcpuclockid(3), as /proc/<pid>/stat has no nanoseconds."""
    try:
        own = time.clock_gettime(~pid << 3 | 2)
    except OSError:
        return 0.0  # it has just ended
    return own + sum(cpu_of_all(child) for child in _children(pid))


def _children(pid: int) -> list[int]:
    try:
        return [int(pid) for pid in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []  # it has just ended


def _pss_of_all(pid: int) -> int:
    """The proportional set size: shared pages are divided among their processes."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0  # it has just ended
    own = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)
    return own + sum(_pss_of_all(child) for child in _children(pid))
