"""How many workers to start, by the settings, the processors and the memory."""

from __future__ import annotations

import os
from pathlib import Path

from webapp.settings import Settings

WORKER_MEMORY = 256 * 1024 * 1024


def worker_count(settings: Settings) -> tuple[int, str]:
    """How many workers to start, and why.

    Without Redis, several processes could not share limits and cache.
    """
    if not settings.redis_url:
        if (settings.web_concurrency or 1) > 1:
            return 1, (
                f"WEB_CONCURRENCY={settings.web_concurrency} needs REDIS_URL: limits and cache "
                "would differ between workers; one worker is started"
            )
        return 1, "one worker, because REDIS_URL is not set"
    if settings.web_concurrency:
        return settings.web_concurrency, "WEB_CONCURRENCY"
    processors, memory = _container_processors(), _container_memory()
    fitting = max(1, memory // WORKER_MEMORY) if memory else processors
    return max(1, min(processors, fitting)), f"{processors} CPUs, memory for {fitting} workers"


def _container_processors() -> int:
    # macOS has no affinities.
    affinity = getattr(os, "sched_getaffinity", None)
    processors = len(affinity(0)) if affinity else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            processors = min(processors, max(1, round(int(quota) / int(period))))
    except (OSError, ValueError):
        pass
    return processors


def _container_memory() -> int | None:
    """The memory limit of this container in bytes; None if there is none."""
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        return None if limit == "max" else int(limit)
    except (OSError, ValueError):
        return None
