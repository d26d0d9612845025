"""The text of /metrics: what all workers have counted, and the state of things."""

from __future__ import annotations

from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest

from webapp.observability import metrics, metrics_files
from webapp.observability.gauges import Gauges
from webapp.threads import run_in_thread

CONTENT_TYPE = CONTENT_TYPE_LATEST


def exposition(gauges: Gauges) -> bytes:
    """All metrics in Prometheus's text format."""
    now = CollectorRegistry(auto_describe=False)
    now.register(gauges)
    # Adding up the files of many workers takes a while, in which streams go on.
    return run_in_thread(_counted) + generate_latest(now)


def _counted() -> bytes:
    return metrics_files.read(metrics.folder) if metrics.folder else generate_latest(REGISTRY)
