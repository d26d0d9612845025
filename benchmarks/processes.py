"""Starts and ends the servers, keeps them on their cores, and reads their memory.

The server that is measured has one core for itself; everything else shares the others.
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
START_TIMEOUT = 60.0
STOP_TIMEOUT = 40.0
POLL = 0.005
MEBIBYTE = 1024 * 1024
# Below the range of outgoing connections: a client that polls cannot connect to itself.
PORTS = range(20_000, 32_000)

COLOUR = re.compile(r"\x1b\[[0-9;]*m")

CORES = sorted(os.sched_getaffinity(0))
SERVER_CORES = set(CORES[:1])
OTHER_CORES = set(CORES[1:]) or SERVER_CORES


def allow_many_files() -> None:
    """Two descriptors a stream are more than the usual limit."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


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
    """A server ended or kept silent instead of being ready; the message is the end of its log."""

    @property
    def reason(self) -> str:
        """The last line that speaks of an error, else the last one."""
        plain = COLOUR.sub("", str(self))
        lines = [line.strip() for line in plain.splitlines() if line.strip()]
        errors = [line for line in lines if re.search("error|exception", line, re.IGNORECASE)]
        return (errors or lines or ["it said nothing"])[-1][:300]


class Server:
    """A process with its children: started in `with`, ended after it."""

    def __init__(
        self,
        command: list[str],
        port: int,
        is_ready: Callable[[int], bool],
        *,
        environment: Mapping[str, str],
        folder: Path,
        cores: set[int],
        patience: float = START_TIMEOUT,
    ) -> None:
        self.port = port
        self.ready_after = 0.0
        self._command = command
        self._is_ready = is_ready
        self._environment = {"PATH": os.environ["PATH"], "HOME": str(folder), **environment}
        self._log = folder / f"{port}.log"
        self._cores = cores
        self._patience = patience

    def memory(self) -> int:
        """PSS of the process and its descendants, in bytes."""
        return _pss_of_all(self._process.pid)

    def cpu_seconds(self) -> float:
        """The CPU time that the process and its descendants have taken so far."""
        return cpu_of_all(self.pid)

    @property
    def pid(self) -> int:
        return self._process.pid

    def __enter__(self) -> Self:
        began = time.perf_counter()
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=REPOSITORY,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=lambda: os.sched_setaffinity(0, self._cores),
            )
        while not self._is_ready(self.port):
            if self._process.poll() is not None or time.perf_counter() - began > self._patience:
                self._end()
                raise NotStarted(self._log.read_text(errors="replace")[-4000:].strip())
            time.sleep(POLL)
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
    """The body of a GET that gives 200. Raises OSError or HTTPException."""
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
    """The same, as JSON."""
    return json.loads(get(port, path))


def cpu_of_all(pid: int) -> float:
    """The CPU seconds of a process and its descendants, by clocks as clock_getcpuclockid(3) names
    them: /proc/<pid>/stat has no nanoseconds."""
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
    """The proportional set size: shared pages are divided among those that share them."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0  # it has just ended
    own = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)
    return own + sum(_pss_of_all(child) for child in _children(pid))
