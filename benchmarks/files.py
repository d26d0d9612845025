"""A file of 200 MB, up and down again, through each store that needs no other server."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.processes import Server
from benchmarks.run import Run
from benchmarks.table import Figure, megabytes, seconds
from benchmarks.workplace import KEY

BLOCK = 1024 * 1024
SIZE = 200 * BLOCK
MAX_MEMORY = 64 * BLOCK
STORES = {"a folder": "", "SQLite": "database://"}
HEAD = (
    b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
    b'--b\r\nContent-Disposition: form-data; name="file"; filename="in.jsonl"\r\n\r\n'
)


def files(run: Run) -> list[Figure]:
    """Seconds, and what the worker's memory grows by at the most."""
    figures = []
    for store, url in STORES.items():
        with run.weir(data=f"files-{len(figures)}", settings={"FILES_URL": url}) as weir:
            _download(weir, _upload(weir, BLOCK))  # what is made once
            before = _memory(weir, "VmRSS")
            for clear in (f"/proc/{pid}/clear_refs" for pid in _workers(weir)):
                Path(clear).write_text("5")  # forget the peak
            began = time.monotonic()
            file_id = _upload(weir, SIZE)
            uploaded = time.monotonic()
            _download(weir, file_id)
            ended = time.monotonic()
            grown = _memory(weir, "VmHWM") - before
        figures += [
            Figure(f"200 MB into {store}", uploaded - began, seconds),
            Figure(f"200 MB out of {store}", ended - uploaded, seconds),
            Figure(f"200 MB through {store}, memory", grown, megabytes, most=MAX_MEMORY),
        ]
    return figures


def _upload(weir: Server, size: int) -> str:
    def body() -> Iterator[bytes]:
        yield HEAD
        for _ in range(0, size, BLOCK):
            yield b"x" * BLOCK
        yield b"\r\n--b--\r\n"

    headers = {"X-API-Key": KEY, "Content-Type": "multipart/form-data; boundary=b"}
    connection = http.client.HTTPConnection("127.0.0.1", weir.port)
    connection.request("POST", "/v1/files", body(), headers, encode_chunked=True)
    file_id: str = json.loads(connection.getresponse().read())["id"]
    return file_id


def _download(weir: Server, file_id: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", weir.port)
    connection.request("GET", f"/v1/files/{file_id}/content", headers={"X-API-Key": KEY})
    answer = connection.getresponse()
    while answer.read(BLOCK):
        pass


def _workers(weir: Server) -> list[str]:
    return Path(f"/proc/{weir.pid}/task/{weir.pid}/children").read_text().split()


def _memory(weir: Server, name: str) -> int:
    """A figure of /proc/pid/status, in bytes, of the only worker."""
    [worker] = _workers(weir)
    status = Path(f"/proc/{worker}/status").read_text()
    return int(status.split(f"{name}:")[1].split()[0]) * 1024
