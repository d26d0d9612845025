"""The text of /metrics: the counters of all workers, and gauges read on request."""

from __future__ import annotations

from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest

from webapp.observability import metrics, metrics_files
from webapp.observability.gauges import Gauges
from webapp.threads import run_in_thread

CONTENT_TYPE = CONTENT_TYPE_LATEST


def exposition(gauges: Gauges) -> bytes:
    """All metrics in Prometheus's text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(gauges)
    # In a thread: summing the files of many workers would block the event loop.
    return run_in_thread(_counters) + generate_latest(registry)


def _counters() -> bytes:
    return metrics_files.read(metrics.folder) if metrics.folder else generate_latest(REGISTRY)
