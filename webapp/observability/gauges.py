"""Gauges of /metrics that are read at each scrape, by the worker that serves it."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from webapp import money
from webapp.errors import StoreUnavailable
from webapp.observability.metrics import ModelLabels
from webapp.storage.breakers import CircuitBreakers
from webapp.storage.database import Database
from webapp.version import VERSION

if TYPE_CHECKING:
    from webapp.storage.redis_client import RedisClient

BREAKER_STATES = ("closed", "half-open", "open")  # from best to worst
# How lines of batches end: `stopped` and `expired` were never begun.
LINE_STATES = ("succeeded", "failed", "stopped", "expired")


class BudgetUse(NamedTuple):
    """The share of a key's budget that is spent (1: all of it)."""

    key: str
    period: str
    ratio: float


class BatchFigures(NamedTuple):
    """The batches that have not ended, by state, and what has been counted of all batches ever.

    Lines that a provider's own batch has do not wait.
    """

    batches: Mapping[str, int]
    waiting_lines: int
    oldest_waiting: float  # seconds
    workers: int
    lines: Mapping[str, int]
    lost: int
    cost_nano: int


class Gauges(Collector):
    """Reads the gauges.

    `drift` returns nano-USD. If it or `budgets` raises StoreUnavailable, both are left out; so is
    what `batches` returns. `stale_secrets` says why secrets could not be refreshed, if any.
    """

    def __init__(
        self,
        *,
        database: Database,
        redis: RedisClient | None,
        breakers: CircuitBreakers,
        labels: ModelLabels,
        drift: Callable[[], int],
        budgets: Callable[[], Iterable[BudgetUse]],
        batches: Callable[[], BatchFigures],
        stale_secrets: Callable[[], str | None],
        data_dir: Path,
    ) -> None:
        self._database = database
        self._redis = redis
        self._breakers = breakers
        self._labels = labels
        self._drift = drift
        self._budgets = budgets
        self._batches = batches
        self._stale_secrets = stale_secrets
        self._data_dir = data_dir

    def collect(self) -> Iterator[Metric]:
        build = {"version": VERSION, "python": platform.python_version()}
        yield InfoMetricFamily("weir_build", "Version of Weir and Python", build)
        yield self._stores()
        yield self._breaker_states()
        yield from self._money()
        yield from self._batch_figures()
        yield GaugeMetricFamily(
            "weir_secrets_stale",
            "1 while a secret that settings refer to cannot be read or used, else 0",
            self._stale_secrets() is not None,
        )
        yield from self._disk()

    def _stores(self) -> Metric:
        up = GaugeMetricFamily("weir_store_up", "1 if a store responds, else 0", labels=["store"])
        up.add_metric(["database"], not self._database.unavailable)
        if self._redis is not None:
            up.add_metric(["redis"], not self._redis.unavailable)
        return up

    def _breaker_states(self) -> Metric:
        """The state of each breaker; the worst of those that share a label."""
        worst: dict[tuple[str, str], int] = {}
        for circuit, shown in self._breakers.states().items():
            target, _, _operation = circuit.partition(" ")
            provider, _, model = target.partition("/")
            labels = self._labels.of(provider, model)
            worst[labels] = max(worst.get(labels, 0), BREAKER_STATES.index(shown["state"]))
        states = GaugeMetricFamily(
            "weir_breaker_state",
            "1 for the present state of a circuit breaker, 0 for the others",
            labels=["provider", "model", "state"],
        )
        for labels, index in worst.items():
            for state in BREAKER_STATES:
                states.add_metric([*labels, state], state == BREAKER_STATES[index])
        return states

    def _money(self) -> Iterator[Metric]:
        try:
            drift = money.to_usd(self._drift()) or 0.0
            yield GaugeMetricFamily(
                "weir_ledger_drift_usd",
                "Difference between this month's budgets and the ledger; anything but 0 is a bug",
                drift,
            )
            ratios = GaugeMetricFamily(
                "weir_budget_spent_ratio",
                "Spent share of a budget (1: all), for the most used budgets",
                labels=["key", "period"],
            )
            for use in self._budgets():
                ratios.add_metric([use.key, use.period], use.ratio)
            yield ratios
        except StoreUnavailable:
            return

    def _batch_figures(self) -> Iterator[Metric]:
        try:
            figures = self._batches()
        except StoreUnavailable:
            return
        yield GaugeMetricFamily(
            "weir_batch_waiting_lines",
            "Lines of batches, and jobs, that have not ended; without those that a provider's own "
            "batch has",
            figures.waiting_lines,
        )
        yield GaugeMetricFamily(
            "weir_batch_oldest_waiting_seconds",
            "Age of the oldest batch or job that has such lines; 0 if there are none",
            figures.oldest_waiting,
        )
        present = GaugeMetricFamily(
            "weir_batches", "Batches and jobs that have not ended, by state", labels=["state"]
        )
        for state, count in figures.batches.items():
            present.add_metric([state], count)
        yield present
        yield GaugeMetricFamily(
            "weir_batch_workers",
            "Processes of `flask worker` seen in the last 30 s",
            figures.workers,
        )
        lines = CounterMetricFamily(
            "weir_batch_lines",
            "Ended lines of batches; stopped and expired ones were not begun",
            labels=["state"],
        )
        for state, count in figures.lines.items():
            lines.add_metric([state], count)
        yield lines
        yield CounterMetricFamily(
            "weir_batch_lines_lost",
            "How often the worker that ran a line of a batch was lost",
            figures.lost,
        )
        cost = money.to_usd(figures.cost_nano) or 0.0
        yield CounterMetricFamily("weir_batch_cost_usd", "Cost of lines of batches", cost)

    def _disk(self) -> Iterator[Metric]:
        # With PostgreSQL the folder itself may not exist.
        folder = self._data_dir.resolve()
        existing = next(path for path in (folder, *folder.parents) if path.exists())
        usage = shutil.disk_usage(existing)
        of = "the disk of DATA_DIR"
        yield GaugeMetricFamily("weir_disk_size_bytes", f"Size of {of}", usage.total)
        yield GaugeMetricFamily("weir_disk_free_bytes", f"Free space on {of}", usage.free)
