"""The servers under load, pinned to one core, and what they weigh."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import requests

from tests.support.servers import REPOSITORY, Server, Weir

CORES = sorted(os.sched_getaffinity(0))
# The server has one core for itself; whoever asks it, and what it asks, share the others.
SERVED_ON, ASKED_FROM = CORES[0], ",".join(map(str, CORES[1:] or CORES))

KEY = "bench_key_0123456789abcdef"
ENVIRONMENT = {
    "API_KEYS": f"bench:enterprise:{KEY}",
    "TIERS": "enterprise=10000000/minute",
    "WEB_CONCURRENCY": 1,
}


class PinnedWeir(Weir):
    """Weir as it is deployed, one worker, on one core."""

    def _command(self) -> list[str]:
        return ["taskset", "-c", str(SERVED_ON), *super()._command()]


class BareFlask(Server):
    """benchmarks/bare.py with Weir's worker settings."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _command(self) -> list[str]:
        options = "-k gevent -w 1 --worker-connections 10000 --no-control-socket --keep-alive 75"
        address = f"127.0.0.1:{self.port}"
        gunicorn = [sys.executable, "-m", "gunicorn", *options.split(), "-b", address]
        return ["taskset", "-c", str(SERVED_ON), *gunicorn, "benchmarks.bare:app"]

    def _process_options(self) -> dict[str, Any]:
        # Not in the repository: Gunicorn would take Weir's configuration file from there.
        return {"cwd": self.folder, "env": {**os.environ, "PYTHONPATH": str(REPOSITORY)}}

    def _is_ready(self) -> bool:
        return _answers(self.url)


class Upstream(Server):
    """benchmarks/upstream.py."""

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def _command(self) -> list[str]:
        module = [sys.executable, "-m", "benchmarks.upstream", str(self.port)]
        return ["taskset", "-c", ASKED_FROM, *module]

    def _process_options(self) -> dict[str, Any]:
        return {"cwd": REPOSITORY}

    def _is_ready(self) -> bool:
        return _answers(f"{self.base_url}/models")


def megabytes(server: Weir) -> float:
    """The memory of master and workers: proportional set size, shared pages counted once."""
    assert server.process is not None
    pids = [server.process.pid, *server.pids()]
    return sum(map(_proportional_set_size, pids)) / 1024


def _proportional_set_size(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def _answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=1).ok
    except requests.RequestException:
        return False
