"""What metrics and traces cost, compared with a cache hit and an uncached call."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from benchmarks.paired import cached_chat, cpu_per_request, uncached_chat
from benchmarks.processes import Server
from benchmarks.request import Request
from benchmarks.run import Run
from benchmarks.table import Figure, microseconds, precise_percent

WITHOUT_METRICS = {"PYTHONPATH": str(Path(__file__).parent / "without_metrics")}
STARTS = 3


def watching(run: Run) -> list[Figure]:
    """With and without metrics; with every request traced, every tenth, and none."""
    return [
        *_costs(run, "cache hit", cached_chat),
        *_costs(run, "uncached call", uncached_chat),
    ]


def _costs(run: Run, name: str, request: Callable[[Server], Request]) -> list[Figure]:
    traced = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{run.upstream.port}"}
    tenth = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.1"}
    variants = {
        "metrics": {},
        "nothing": WITHOUT_METRICS,
        "traced": traced,
        "a tenth": traced | tenth,
    }
    costs = cpu_per_request(run, variants, request, STARTS)
    return [
        Figure(f"{name} as it ships, CPU", costs.median("metrics"), microseconds),
        Figure(f"{name} without metrics, CPU", costs.median("nothing"), microseconds),
        Figure(f"{name}: metrics add", costs.more("metrics", than="nothing"), precise_percent),
        Figure(
            f"{name}: to trace every tenth adds",
            costs.more("a tenth", than="metrics"), precise_percent,
        ),
        Figure(
            f"{name}: to trace every one adds",
            costs.more("traced", than="metrics"), precise_percent,
        ),
    ]  # fmt: skip
