"""Batches: what they leave to interactive requests on the same core, and how fast they are.

With PostgreSQL and Valkey, through the HTTP API alone. The worker (`flask worker`) is a process of
its own, pinned to the core of the serving process.
"""

from __future__ import annotations

import json
import statistics
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import psycopg
import requests

from benchmarks.load import Load, put_load
from benchmarks.paired import cached_chat, uncached_chat
from benchmarks.processes import Server
from benchmarks.request import Request
from benchmarks.run import Run, tell, warm_up
from benchmarks.table import Figure, milliseconds, number, percent, seconds
from benchmarks.upstream import MODEL
from benchmarks.workplace import KEY
from tests.support.servers import Postgres

PAIRS = 5
LINES_BESIDE = 5_000
LINES_ALONE = 5_000
MANY_LINES = 50_000
LISTED = 1_000
PAGE = 100
POLL = 0.05  # seconds
TIMEOUT = 600.0  # seconds
ENDED = {"completed", "failed", "cancelled", "expired"}

KINDS: dict[str, Callable[[Server], Request]] = {
    "cache hit": cached_chat,
    "uncached call": uncached_chat,
}

SEEN = "SELECT 1 FROM workers WHERE batch_worker_seen_at IS NOT NULL"
COPIES = """
INSERT INTO batches SELECT copy.* FROM batches, generate_series(2, %s) AS number,
  LATERAL jsonb_populate_record(batches, jsonb_build_object('id', 'batch_' || md5(number::text),
    'state', 'completed', 'created_at', batches.created_at + number)) AS copy
WHERE batches.id = %s
"""


def batches(run: Run) -> list[Figure]:
    """Interactive requests without and with a batch; lines a second; validation; listing."""
    with Postgres() as postgres:
        url = postgres.create_database(f"batches_{uuid.uuid4().hex[:8]}")
        settings = {"DATABASE_URL": url}
        with run.weir("batches", settings=settings) as weir, closing(_API(weir)) as api:
            place = _Place(run, weir, api, settings)
            return [
                *_beside(place),
                *_alone(place),
                *_validated(place),
                *_listed(place),
            ]


class _API:
    """/v1/files and /v1/batches, as OpenAI's clients see them."""

    def __init__(self, weir: Server) -> None:
        self._session = requests.Session()
        self._session.headers["Authorization"] = f"Bearer {KEY}"
        self._url = f"http://127.0.0.1:{weir.port}/v1"

    def close(self) -> None:
        self._session.close()

    def upload(self, lines: int) -> str:
        """A file of so many requests that nobody made before. Returns its id."""
        unique = uuid.uuid4().hex
        file = ("lines.jsonl", _jsonl(unique, lines), "application/jsonl")
        uploaded = self._ask("POST", "/files", files={"file": file}, data={"purpose": "batch"})
        return str(uploaded["id"])

    def create(self, file: str) -> str:
        body = {
            "input_file_id": file,
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
        }
        return str(self._ask("POST", "/batches", json=body)["id"])

    def batch(self, batch: str) -> dict[str, Any]:
        return dict(self._ask("GET", f"/batches/{batch}"))

    def cancel(self, batch: str) -> None:
        self._ask("POST", f"/batches/{batch}/cancel")

    def page(self, after: str | None) -> list[dict[str, Any]]:
        after_it = {"after": after} if after else {}
        return list(self._ask("GET", "/batches", params={"limit": PAGE, **after_it})["data"])

    def wait(self, batch: str, until: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        deadline = time.monotonic() + TIMEOUT
        while not until(found := self.batch(batch)):
            if time.monotonic() > deadline or found["status"] in ENDED:
                raise RuntimeError(f"batch {batch}: {json.dumps(found)[:1000]}")
            time.sleep(POLL)
        return found

    def _ask(self, method: str, path: str, **options: Any) -> Any:
        response = self._session.request(method, self._url + path, timeout=120, **options)
        if response.status_code >= 400:
            raise RuntimeError(f"{method} {path}: {response.status_code} {response.text[:1000]}")
        return response.json()


class _Place:
    """The servers that the measures share."""

    def __init__(self, run: Run, weir: Server, api: _API, settings: dict[str, str]) -> None:
        self.run = run
        self.weir = weir
        self.api = api
        self.settings = settings

    @contextmanager
    def worker(self) -> Iterator[Server]:
        """It has nice 10 by itself. Serving processes leave the work to one that they have seen."""
        run = self.run
        with run.place.batch_worker(run.valkey, run.upstream, "batches", self.settings) as worker:
            deadline = time.monotonic() + TIMEOUT
            while not self._sees_a_worker():
                if time.monotonic() > deadline:
                    raise RuntimeError("the worker was not seen")
                time.sleep(POLL)
            yield worker

    def _sees_a_worker(self) -> bool:
        with psycopg.connect(self.settings["DATABASE_URL"]) as connection:
            return connection.execute(SEEN).fetchone() is not None


def _beside(place: _Place) -> list[Figure]:
    """Loads in turns: without a batch, and with one that runs on the same core all the time."""
    for make in KINDS.values():
        warm_up(lambda make=make: make(place.weir))
    without: dict[str, list[Load]] = {name: [] for name in KINDS}
    beside: dict[str, list[Load]] = {name: [] for name in KINDS}
    ran = []
    for pair in range(PAIRS):
        tell(f"Measuring: batches, pair {pair + 1} of {PAIRS}")
        _put_loads(place, without)
        file = place.api.upload(LINES_BESIDE)
        with place.worker():
            batch = place.api.create(file)
            began = place.api.wait(batch, _completed_some)
            since = time.monotonic()
            _put_loads(place, beside)
            found = place.api.batch(batch)
            if found["status"] != "in_progress":
                raise RuntimeError("the batch ended before the loads: take fewer --seconds")
            ran.append((_completed(found) - _completed(began)) / (time.monotonic() - since))
            place.api.cancel(batch)
            place.api.wait(batch, lambda found: found["status"] == "cancelled")
    figures = [Figure("batch beside full load, lines/s", statistics.median(ran), number)]
    for name in KINDS:
        figures += _compared(name, without[name], beside[name])
    return figures


def _compared(name: str, without: list[Load], beside: list[Load]) -> list[Figure]:
    figures = []
    for percentile, most in (("p50", None), ("p99", 0.25)):
        alone, both = ([getattr(load, percentile) for load in loads] for loads in (without, beside))
        growth = statistics.median(b / a for a, b in zip(alone, both, strict=True)) - 1
        figures += [
            Figure(f"{name}, {percentile}", statistics.median(alone), milliseconds),
            Figure(f"{name} beside a batch, {percentile}", statistics.median(both), milliseconds),
            Figure(f"{name} beside a batch, {percentile} grows by", growth, percent, most=most),
        ]
    failed = sum(load.failed for load in (*without, *beside))
    return [*figures, Figure(f"{name}, failures", failed, number, most=0)]


def _put_loads(place: _Place, loads: dict[str, list[Load]]) -> None:
    for name, make in KINDS.items():
        loads[name].append(put_load(make(place.weir), place.run.seconds))


def _alone(place: _Place) -> list[Figure]:
    """One worker, and nobody else who wants its core."""
    file = place.api.upload(LINES_ALONE)
    with place.worker() as worker:
        batch = place.api.create(file)
        began = _completed(place.api.wait(batch, _completed_some))
        since, before = time.monotonic(), worker.cpu_seconds()
        done = place.api.wait(batch, lambda found: _completed(found) == LINES_ALONE)
        passed, cpu = time.monotonic() - since, worker.cpu_seconds() - before
        place.api.wait(batch, lambda found: found["status"] == "completed")
    lines = _completed(done) - began
    return [
        Figure("batch alone, lines/s by one worker", lines / passed, number),
        Figure("batch alone, lines per CPU second", lines / cpu, number, least=300),
        Figure("batch alone, failed lines", done["request_counts"]["failed"], number, most=0),
    ]


def _validated(place: _Place) -> list[Figure]:
    """From the creation of a batch until its lines may run."""
    began = time.monotonic()
    file = place.api.upload(MANY_LINES)
    uploaded = time.monotonic() - began
    with place.worker():
        # The worker is there before the batch is.
        small = place.api.create(place.api.upload(1))
        place.api.wait(small, lambda found: found["status"] == "completed")
        began = time.monotonic()
        batch = place.api.create(file)
        found = place.api.wait(batch, lambda found: found["status"] != "validating")
        passed = time.monotonic() - began
        place.api.cancel(batch)
        place.api.wait(batch, lambda found: found["status"] == "cancelled")
    if found["request_counts"]["total"] != MANY_LINES:
        raise RuntimeError(f"batch {batch}: {json.dumps(found)[:1000]}")
    return [
        Figure(f"{MANY_LINES:,} lines uploaded after", uploaded, seconds),
        Figure(f"{MANY_LINES:,} lines validated and inserted after", passed, seconds, most=20),
    ]


def _listed(place: _Place) -> list[Figure]:
    """All pages of a key that has so many batches, one after the other."""
    file = place.api.upload(1)
    # A key may have 100 that have not ended: the others are copies that have.
    batch = place.api.create(file)
    with psycopg.connect(place.settings["DATABASE_URL"]) as connection:
        connection.execute(COPIES, (LISTED, batch))
    times = []
    for _ in range(20):
        began, after = time.perf_counter(), None
        for _ in range(LISTED // PAGE):
            after = place.api.page(after)[-1]["id"]
        times.append((time.perf_counter() - began) * 1000)
    name = f"{LISTED:,} batches listed, {LISTED // PAGE} pages"
    return [Figure(name, statistics.median(times), milliseconds, most=50)]


def _jsonl(unique: str, lines: int) -> bytes:
    made = []
    for line in range(1, lines + 1):
        message = {"role": "user", "content": f"Summarize document {line} of {unique}."}
        request = {
            "custom_id": f"line-{line}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"model": MODEL, "max_tokens": 100, "messages": [message]},
        }
        made.append(json.dumps(request))
    return "\n".join(made).encode()


def _completed(batch: dict[str, Any]) -> int:
    return int(batch["request_counts"]["completed"])


def _completed_some(batch: dict[str, Any]) -> bool:
    return batch["status"] == "in_progress" and _completed(batch) > 0
