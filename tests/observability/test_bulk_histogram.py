"""Many values told at once are the same as each told by itself."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Histogram, generate_latest

from webapp.observability.metrics import BulkHistogram


def test_at_once_and_one_by_one_are_the_same() -> None:
    values = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 64.0)
    registries = CollectorRegistry(), CollectorRegistry()
    one_by_one = Histogram("gaps", "Gaps", ("of",), buckets=(1, 2), registry=registries[0])
    at_once = BulkHistogram("gaps", "Gaps", ("of",), buckets=(1, 2), registry=registries[1])
    for value in values:
        one_by_one.labels("a").observe(value)
    at_once.labels("a").observe_all(values)
    assert generate_latest(registries[0]) == generate_latest(registries[1])
