"""The metrics of /metrics that are counted as events happen; gauges.py has those read on request.

Names and units follow prometheus.io/docs/practices/naming. Under Gunicorn each worker writes to its
own files; a scrape sums the files of all workers, including those that are gone.

The number of label values is bounded: endpoints are URL rules; tiers, providers and limits are
configured; for models see ModelLabels.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

from prometheus_client import Counter, Gauge, Histogram, disable_created_metrics

from webapp import errors
from webapp.library_internals import count_without_asking
from webapp.observability.refusals import COUNTER_OF_LIMIT

Labelled = TypeVar("Labelled", Counter, Histogram)

disable_created_metrics()  # type: ignore[no-untyped-call]
count_without_asking()

# Seconds: for provider calls, and for what Weir does itself.
LONG_BUCKETS = (
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
    60.0,
    120.0,
    300.0,
)
SHORT_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
ROWS = (1, 2, 5, 10, 25, 50, 100)

# -- requests --

REQUESTS = Counter(
    "weir_requests",
    "Finished requests, by endpoint, status and tier",
    ("endpoint", "status", "tier"),
)
REQUEST_SECONDS = Histogram(
    "weir_request_duration_seconds", "Duration of requests, until the last byte", ("endpoint",),
    buckets=LONG_BUCKETS,
)  # fmt: skip
OVERHEAD_SECONDS = Histogram(
    "weir_overhead_seconds",
    "Time spent in Weir: the duration without provider calls; for streams, until the first chunk",
    ("cache",), buckets=SHORT_BUCKETS,
)  # fmt: skip
CACHE = Counter("weir_cache_answers", "Answers, by cache result", ("result",))
SAVED_USD = Counter("weir_saved_usd", "Cost avoided by cached and coalesced answers")
ERRORS = Counter("weir_errors", "Requests that ended with an error, by error name", ("error",))
REFUSALS = Counter(
    "weir_refusals",
    "Requests refused by a limit, a budget or too many invalid credentials",
    ("limit", "tier"),
)
STREAMS = Gauge("weir_streams_open", "Open streams", multiprocess_mode="livesum")

# -- providers --

ATTEMPTS = Counter("weir_provider_attempts", "Provider calls", ("provider", "model"))
PROVIDER_ERRORS = Counter(
    "weir_provider_errors", "Failed provider calls, by error name",
    ("provider", "model", "error"),
)  # fmt: skip
PROVIDER_SECONDS = Histogram(
    "weir_provider_duration_seconds", "Duration of provider calls, until the last byte",
    ("provider", "model"), buckets=LONG_BUCKETS,
)  # fmt: skip
FIRST_TOKEN_SECONDS = Histogram(
    "weir_time_to_first_token_seconds", "Streamed provider calls: time until the first chunk",
    ("provider", "model"), buckets=LONG_BUCKETS,
)  # fmt: skip
BETWEEN_TOKENS_SECONDS = Histogram(
    "weir_time_between_tokens_seconds", "Streamed provider calls: time between two chunks",
    ("provider", "model"), buckets=(0.001, 0.0025, *LONG_BUCKETS[:12]),
)  # fmt: skip
TOKENS = Counter(
    "weir_tokens", "Tokens of provider calls; cached_input is a part of input",
    ("provider", "model", "type"),
)  # fmt: skip
COST_USD = Counter("weir_cost_usd", "Cost of provider calls", ("provider", "model"))
UNPRICED = Counter("weir_unpriced_calls", "Calls of models without a price", ("provider", "model"))

# -- stores --

DATABASE_SECONDS = Histogram(
    "weir_database_duration_seconds",
    "Transactions, with the wait for a connection; `reserve`: until a call's ledger row is written",
    ("operation",), buckets=SHORT_BUCKETS,
)  # fmt: skip
REDIS_SECONDS = Histogram(
    "weir_redis_duration_seconds", "Duration of Redis round trips, each with a batch of commands",
    buckets=SHORT_BUCKETS,
)  # fmt: skip
STORE_ERRORS = Counter("weir_store_errors", "Failed transactions and Redis round trips", ("store",))
CONNECTIONS = Gauge(
    "weir_database_connections",
    "Connections of the database pools",
    ("state",),
    multiprocess_mode="livesum",
)

# -- inference --

PREDICTION_SECONDS = Histogram(
    "weir_prediction_duration_seconds", "Duration of model calls, with the wait in the queue",
    ("model",), buckets=SHORT_BUCKETS,
)  # fmt: skip
PREDICTION_ROWS = Histogram(
    "weir_prediction_batch_size", "Rows per model call", ("model",), buckets=ROWS
)

# -- workers --

WORKERS = Gauge("weir_workers", "Running workers", multiprocess_mode="livesum")
STARTS = Counter("weir_worker_starts", "Started workers")
MEMORY = Gauge("weir_resident_memory_bytes", "Memory of all workers", multiprocess_mode="livesum")

CACHE_RESULTS = ("hit", "miss", "coalesced", "stale", "bypass")
MAX_MODEL_LABELS = 50
OTHER = "other"


# The folder with the files of all workers; None in a process that is no worker.
folder: Path | None = None


def begin(shared: Path, tiers: Iterable[str]) -> None:
    """Start to count in a worker, with files in the folder `shared`.

    Known label values start at 0, so that their first event is seen as an increase.
    """
    global folder
    folder = shared
    STARTS.inc()
    WORKERS.set(1)
    STREAMS.set(0)
    for result in CACHE_RESULTS:
        CACHE.labels(result)
    for store in ("database", "redis"):
        STORE_ERRORS.labels(store)
    for error in vars(errors).values():
        if isinstance(error, type) and issubclass(error, errors.WeirError):
            ERRORS.labels(error.__name__)
    REFUSALS.labels("credentials", "none")
    for tier in tiers:
        for limit in COUNTER_OF_LIMIT:
            REFUSALS.labels(limit, tier)


@lru_cache(10_000)
def child(metric: Labelled, *values: str | int) -> Labelled:
    """metric.labels() with a cache: its own lookup takes as long as counting."""
    return metric.labels(*values)


class ModelLabels:
    """The models that have their own label: configured ones, and the first others that answered,
    as many as are `free`.

    Clients can send any model name, so a model that has not answered may not exist, and some
    servers answer to any name.
    """

    def __init__(
        self, configured: Collection[tuple[str, str]], free: int = MAX_MODEL_LABELS
    ) -> None:
        self._named = set(configured)
        self._free_labels = free

    def of(self, provider: str, model: str, *, answered: bool = False) -> tuple[str, str]:
        """(provider, model) as labels."""
        pair = (provider, model)
        if pair in self._named:
            return pair
        if answered and self._free_labels:
            self._free_labels -= 1
            self._named.add(pair)
            return pair
        return provider, OTHER
