"""Reads /metrics as Prometheus does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from prometheus_client.parser import text_string_to_metric_families

from tests.support.servers import Weir


class Scrape(NamedTuple):
    """One scrape of all metrics: the text, and its samples by name."""

    text: str
    samples: Mapping[str, list[tuple[dict[str, str], float]]]

    def value(self, name: str, **labels: str) -> float:
        """The sum of the samples of a name that have these labels; 0 if there are none."""
        return sum(
            value for own, value in self.samples.get(name, ()) if labels.items() <= own.items()
        )

    def labels(self, name: str, label: str) -> set[str]:
        """The values that a label of a metric has."""
        return {own[label] for own, _ in self.samples.get(name, ())}


def scrape(weir: Weir, **headers: str) -> Scrape:
    response = weir.get("/metrics", headers=headers)
    assert response.status_code == 200, response.text
    samples: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(response.text):
        for sample in family.samples:
            samples.setdefault(sample.name, []).append((sample.labels, sample.value))
    return Scrape(response.text, samples)
