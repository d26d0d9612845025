"""The check of Redis."""

from __future__ import annotations

import time
from collections.abc import Iterator

from webapp.diagnosis.finding import Finding
from webapp.services import Services


def check_redis(services: Services) -> Iterator[Finding]:
    redis = services.redis
    if redis is None:
        yield Finding("redis", "ok", "not configured: one process, with its own cache")
        return
    if problem := redis.problem():
        yield Finding("redis", "problem", problem.found, problem.advice)
        return
    began = time.perf_counter()
    redis.execute("PING")
    took = (time.perf_counter() - began) * 1000
    yield Finding("redis", "ok", f"answers in {took:.1f} ms")
    values = redis.info()
    policy = values.get("maxmemory_policy", "noeviction")
    if policy.startswith("allkeys") and values.get("maxmemory", "0") != "0":
        yield Finding(
            "redis", "warning", f"{policy} may evict rate limits when memory is full",
            "Use volatile-lru: it evicts the least recently used keys, mostly cached answers.",
        )  # fmt: skip
