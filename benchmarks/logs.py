"""What a log line costs, compared with the cheapest request, a cache hit."""

from __future__ import annotations

from benchmarks.paired import cpu_per_request
from benchmarks.run import Run
from benchmarks.table import Figure, microseconds, precise_percent


def logs(run: Run) -> list[Figure]:
    """A cache hit with and without its log line."""
    cost = cpu_per_request(run, {"line": {"LOG_LEVEL": "info"}, "none": {"LOG_LEVEL": "error"}})
    return [
        Figure("cache hit with its log line, CPU", cost.median("line"), microseconds),
        Figure("cache hit without, CPU", cost.median("none"), microseconds),
        Figure(
            "what the log line adds", cost.more("line", than="none"), precise_percent, most=0.05
        ),
    ]
