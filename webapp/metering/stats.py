"""The figures of GET /stats, from the counters and the keys."""

from __future__ import annotations

from collections import Counter
from typing import Any

from webapp import money
from webapp.accounts.keys import KeyStore
from webapp.metering.totals import UsageTotals
from webapp.metering.traffic import Traffic
from webapp.metering.usage import UsageReports


class Stats:
    """Figures of the whole service. Every method may raise StoreUnavailable."""

    def __init__(self, traffic: Traffic, usage: UsageReports, keys: KeyStore) -> None:
        self._traffic = traffic
        self._usage = usage
        self._keys = keys

    def report(self, key_id: int | None) -> dict[str, Any]:
        """The public figures, and with a key's id also those for authenticated clients."""
        self._traffic.flush()
        counts, by_key, since = self._traffic.totals()
        figures: dict[str, Any] = {
            "total_requests": counts.requests,
            "cache_hits": counts.hits,
            "cache_misses": counts.misses,
            "cache_hit_rate": _hit_rate(counts),
            "total_api_keys": self._keys.count(),
            "requests_by_key": _by_mask(by_key),
        }
        if key_id is not None:
            billed, own = self._usage.totals(), self._usage.totals(key_id)
            counted = self._traffic.counts(key_id)
            p50, p95, p99 = self._traffic.percentiles(0.5, 0.95, 0.99)
            figures |= {
                "errors": counts.errors,
                "tokens": billed.tokens,
                "cost_usd": money.to_usd(billed.cost_nano),
                "saved_tokens": counts.saved_tokens,
                "saved_usd": money.to_usd(counts.saved_nano),
                "latency_ms": {"p50": p50, "p95": p95, "p99": p99},
                "since": since.isoformat(),
                "you": {
                    "api_key": by_key[key_id][0] if key_id in by_key else None,
                    "requests": counted.requests,
                    "tokens": own.tokens,
                    "cost_usd": money.to_usd(own.cost_nano),
                    "saved_usd": money.to_usd(counted.saved_nano),
                },
            }
        return figures


def _hit_rate(counts: UsageTotals) -> float:
    return round(counts.hit_rate or 0.0, 3)


def _by_mask(by_key: dict[int, tuple[str, int]]) -> dict[str, int]:
    """Requests by mask; `#<id>` is added to a mask that several keys have."""
    counts = Counter(mask for mask, _ in by_key.values())
    return {
        mask if counts[mask] == 1 else f"{mask}#{key_id}": requests
        for key_id, (mask, requests) in by_key.items()
    }
