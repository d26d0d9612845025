"""Compares this checkout with another commit: CPU time per request, in turns."""

from __future__ import annotations

import subprocess
import tarfile
import uuid
from collections.abc import Callable
from pathlib import Path

from benchmarks.paired import costs_of
from benchmarks.processes import REPOSITORY, Server
from benchmarks.request import NUMBER, Request, post
from benchmarks.run import QUESTION, Run
from benchmarks.table import Figure, microseconds, precise_percent
from benchmarks.upstream import MODEL
from benchmarks.workplace import KEY, KEY_WITH_BUDGET

STARTS = 3


def commits(run: Run, base: str) -> list[Figure]:
    """A hit, an uncached call, and one of a key with a budget: the CPU time of each, before and
    now. Both run with the libraries that are installed now."""
    checkouts = {"base": _checkout(run, base), "now": REPOSITORY}

    def start(name: str) -> Server:
        return run.weir(f"commit-{name}", code=checkouts[name])

    figures = []
    for what, request in REQUESTS.items():
        costs = costs_of(run, checkouts, start, request, STARTS)
        figures += [
            Figure(f"{what} at {base}, CPU", costs.median("base"), microseconds),
            Figure(f"{what} now, CPU", costs.median("now"), microseconds),
            Figure(f"{what}, change", costs.more("now", than="base"), precise_percent),
        ]
    return figures


def _checkout(run: Run, commit: str) -> Path:
    """A folder with the files of a commit. Raises CalledProcessError if there is none."""
    archive, folder = run.place.folder / "base.tar", run.place.folder / "base"
    command = ["git", "archive", f"--output={archive}", commit]
    subprocess.run(command, cwd=REPOSITORY, check=True)
    with tarfile.open(archive) as files:
        files.extractall(folder, filter="data")
    return folder


def _completion(weir: Server, question: str, key: str = KEY) -> Request:
    body = {"model": MODEL, "messages": [{"role": "user", "content": question}]}
    headers = {"Authorization": f"Bearer {key}"}
    return post(weir.port, "/v1/chat/completions", headers, body)


REQUESTS: dict[str, Callable[[Server], Request]] = {
    "cache hit": lambda weir: _completion(weir, QUESTION),
    "uncached call": lambda weir: _completion(weir, QUESTION + uuid.uuid4().hex + NUMBER),
    "uncached call of a key with a budget": lambda weir: _completion(
        weir, QUESTION + uuid.uuid4().hex + NUMBER, KEY_WITH_BUDGET
    ),
}
