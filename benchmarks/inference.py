"""Do predictions stall streams? The gaps between chunks of open streams, without and with them."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import requests
from onnx import TensorProto, helper

from benchmarks.load import percentile
from benchmarks.request import NUMBER, Request, post
from benchmarks.run import Run
from benchmarks.table import Figure, milliseconds, number
from benchmarks.workplace import KEY
from tests.support.onnx_models import save
from tests.support.servers import Provider

STREAMS, GAP, PIECES = 200, 0.1, 100
CALLERS, ROWS, COLUMNS = 4, 100, 100
HIDDEN = (2_000, 500)
MOST = 100.0  # ms


def inference(run: Run) -> list[Figure]:
    """One worker on one core, which predictions would take all of by themselves."""
    models = run.place.folder / "models"
    heavy_model(models / "heavy" / "1.onnx")
    with Provider() as provider:
        provider.fault(gap=GAP, pieces=PIECES)
        settings = {"OPENAI_BASE_URL": provider.base_url, "MODEL_PATH": str(models)}
        with run.weir("inference", settings=settings) as weir:
            alone = asyncio.run(gaps(weir.port))
            callers = Callers(weir.port)
            beside = asyncio.run(gaps(weir.port))
            predicted, took, failed = callers.stop()
    return [
        Figure(f"{STREAMS} streams, gap of the provider", GAP * 1000, milliseconds),
        Figure("gap between chunks, p50", percentile(alone, 0.5), milliseconds),
        Figure("gap between chunks, p99", percentile(alone, 0.99), milliseconds),
        Figure("with predictions, p50", percentile(beside, 0.5), milliseconds),
        Figure("with predictions, p99", percentile(beside, 0.99), milliseconds),
        Figure(
            "with predictions, p99 beyond the provider's gap",
            percentile(beside, 0.99) - GAP * 1000, milliseconds, most=MOST,
        ),
        Figure("rows predicted a second meanwhile", predicted, number),
        Figure(f"batch of {ROWS} rows, p50", took, milliseconds),
        Figure("batches that failed", failed, number, most=0),
    ]  # fmt: skip


def heavy_model(path: Path) -> None:
    """Three layers: a batch takes some ten milliseconds of a core."""
    chance = np.random.default_rng(7)
    sizes = (COLUMNS, *HIDDEN, 1)
    weights = {
        f"w{place}": chance.standard_normal(shape, dtype=np.float32)
        for place, shape in enumerate(pairwise(sizes))
    }
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["a"]),
        helper.make_node("Tanh", ["a"], ["b"]),
        helper.make_node("MatMul", ["b", "w1"], ["c"]),
        helper.make_node("Tanh", ["c"], ["d"]),
        helper.make_node("MatMul", ["d", "w2"], ["y"]),
    ]
    save(path, nodes, {"y": (TensorProto.FLOAT, ["rows", 1])}, weights, ["rows", COLUMNS])


async def gaps(port: int) -> list[float]:
    """Milliseconds between the chunks of all streams, sorted; first bytes left out."""
    body = {"message": f"stream {NUMBER}", "stream": True}
    request = post(port, "/chat", {"X-API-Key": KEY, "Cache-Control": "no-store"}, body)
    clients = [_Client(request, place) for place in range(STREAMS)]
    await asyncio.gather(*(client.run(port) for client in clients))
    return sorted(gap * 1000 for client in clients for gap in client.gaps)


class _Client(asyncio.Protocol):
    """Reads one stream, and takes the time of each arrival."""

    def __init__(self, request: Request, place: int) -> None:
        self.gaps: list[float] = []
        self._content = request.content(place, last=True)
        self._latest: float | None = None
        self._over = asyncio.get_running_loop().create_future()

    async def run(self, port: int) -> None:
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: self, "127.0.0.1", port)
        await self._over

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        writer: Any = transport
        writer.write(self._content)

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        if self._latest is not None:
            self.gaps.append(now - self._latest)
        self._latest = now

    def connection_lost(self, error: Exception | None) -> None:
        if not self._over.done():
            self._over.set_result(None)


class Callers:
    """Ask for batches, each as soon as the one before is answered."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/batch-predict"
        self._stopped = threading.Event()
        self._took: list[float] = []
        self._failed = 0
        self._began = time.perf_counter()
        self._threads = [threading.Thread(target=self._ask) for _ in range(CALLERS)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> tuple[float, float, int]:
        """Rows a second, milliseconds of a batch (median), failures."""
        self._stopped.set()
        for thread in self._threads:
            thread.join()
        seconds = time.perf_counter() - self._began
        return len(self._took) * ROWS / seconds, percentile(sorted(self._took), 0.5), self._failed

    def _ask(self) -> None:
        headers = {"X-API-Key": KEY, "Cache-Control": "no-store"}
        features = [[random.random() for _ in range(COLUMNS)] for _ in range(ROWS)]
        body = {"requests": [{"features": row} for row in features]}
        with requests.Session() as session:
            while not self._stopped.is_set():
                began = time.perf_counter()
                answer = session.post(self._url, json=body, headers=headers, timeout=60)
                self._took.append((time.perf_counter() - began) * 1000)
                self._failed += answer.status_code != 200
