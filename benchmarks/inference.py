"""Whether predictions delay streams: gaps between chunks of open streams, with and without."""

from __future__ import annotations

import asyncio
import os
import random
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from benchmarks.load import Load, percentile, put_load
from benchmarks.processes import OTHER_CORES, Server, free_port
from benchmarks.request import NUMBER, Request, post
from benchmarks.run import Run
from benchmarks.table import Figure, milliseconds, number, percent
from benchmarks.workplace import KEY, Workplace, gives
from tests.support.onnx_models import save

STREAMS, GAP = 200, 0.06  # seconds between the chunks of a stream
CLIENTS, ROWS, COLUMNS = 4, 100, 100
HIDDEN = (4_000, 2_000)
SECONDS = 15.0
# Seconds of load before and after the streams are measured, so that it covers them.
MARGIN = 2.0
MAX_GAP = 100.0  # ms
TICKS = os.sysconf("SC_CLK_TCK")


def inference(run: Run) -> list[Figure]:
    """One worker on one core, which predictions alone could keep busy."""
    models = run.place.folder / "models"
    heavy_model(models / "heavy" / "1.onnx")
    with slow_upstream(run.place) as upstream:
        settings = {
            "OPENAI_BASE_URL": f"http://127.0.0.1:{upstream.port}/v1",
            "MODEL_PATH": str(models),
        }
        with run.weir("inference", settings=settings) as weir:
            alone, alone_busy = measured(weir)
            # In its own process: it must not disturb the timing of the streams.
            with ProcessPoolExecutor(1) as pool:
                clients = pool.submit(put_load, batch(weir.port), SECONDS + 2 * MARGIN, CLIENTS)
                time.sleep(MARGIN)
                loaded, loaded_busy = measured(weir)
                load = clients.result()
    return [
        Figure(f"{STREAMS} streams, gap of the provider", GAP * 1000, milliseconds),
        *_figures("without predictions", alone, alone_busy),
        *_figures("with predictions", loaded, loaded_busy, most=MAX_GAP),
        *_figures_of(load),
    ]


def _figures(
    when: str, gaps: list[float], busy: tuple[float, float], most: float | None = None
) -> list[Figure]:
    return [
        Figure(f"{when}, gap p50", percentile(gaps, 0.5), milliseconds),
        Figure(f"{when}, gap p99", percentile(gaps, 0.99), milliseconds, most=most),
        Figure(f"{when}, gap p99.9", percentile(gaps, 0.999), milliseconds),
        Figure(f"{when}, longest gap", gaps[-1], milliseconds),
        Figure(f"{when}, the worker's share of its core", busy[0], percent),
        Figure(f"{when}, the share of its loop alone", busy[1], percent),
    ]


def _figures_of(load: Load) -> list[Figure]:
    return [
        Figure("rows predicted a second meanwhile", load.per_second * ROWS, number),
        Figure(f"batch of {ROWS} rows, p50", load.p50, milliseconds),
        Figure("batches that failed", load.failed, number, most=0),
    ]


def heavy_model(path: Path) -> None:
    """Three layers: a batch takes tens of milliseconds of a core."""
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


def slow_upstream(place: Workplace) -> Server:
    """The static upstream, with streams that last longer than the measurement."""
    port = free_port()
    chunks = round(3 * SECONDS / GAP)
    options = ["--port", str(port), "--chunks", str(chunks), "--seconds", str(chunks * GAP)]
    command = [sys.executable, "-m", "benchmarks.upstream", *options]
    return place.server(command, port, gives("/calls"), OTHER_CORES)


def batch(port: int) -> Request:
    rows = [{"features": [random.random() for _ in range(COLUMNS)]} for _ in range(ROWS)]
    headers = {"X-API-Key": KEY, "Cache-Control": "no-store"}
    return post(port, "/batch-predict", headers, {"requests": rows})


def measured(weir: Server) -> tuple[list[float], tuple[float, float]]:
    """Milliseconds between the chunks of all streams, sorted; and the shares of a core that the
    worker and its event loop used meanwhile."""
    loop_before, all_before, started = *_busy(weir), time.perf_counter()
    measured_gaps = asyncio.run(gaps(weir.port))
    duration = time.perf_counter() - started
    loop, everything = _busy(weir)
    return measured_gaps, ((everything - all_before) / duration, (loop - loop_before) / duration)


def _busy(weir: Server) -> tuple[float, float]:
    """CPU seconds that the worker has used so far: its main thread, and all threads."""
    master = weir._process.pid
    worker = Path(f"/proc/{master}/task/{master}/children").read_text().split()[0]
    stats = (Path(f"/proc/{worker}", part, "stat").read_text() for part in (f"task/{worker}", ""))
    fields = (stat.rpartition(")")[2].split() for stat in stats)
    loop, everything = ((int(values[11]) + int(values[12])) / TICKS for values in fields)
    return loop, everything


async def gaps(port: int) -> list[float]:
    """Milliseconds between the chunks of all streams, sorted; first bytes left out."""
    body = {"message": f"stream {NUMBER}", "stream": True}
    request = post(port, "/chat", {"X-API-Key": KEY, "Cache-Control": "no-store"}, body)
    clients = [_Client(request, place) for place in range(STREAMS)]
    loop = asyncio.get_running_loop()
    for client in clients:
        await loop.create_connection(lambda client=client: client, "127.0.0.1", port)
    await asyncio.sleep(SECONDS)
    for client in clients:
        client.hang_up()
    return sorted(gap * 1000 for client in clients for gap in client.gaps)


class _Client(asyncio.Protocol):
    """Reads one stream, and measures the gaps between its chunks."""

    def __init__(self, request: Request, place: int) -> None:
        self.gaps: list[float] = []
        self._content = request.content(place, last=True)
        self._latest: float | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        self._transport.write(self._content)

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        if self._latest is not None:
            self.gaps.append(now - self._latest)
        self._latest = now

    def hang_up(self) -> None:
        self._transport.abort()
