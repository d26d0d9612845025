"""The totals that reports are made of."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields

REFUSALS = ("refused_rate", "refused_tokens", "refused_budget", "refused_parallel")
# The fields of UsageTotals by where they are counted: with requests, as calls are billed, and of
# calls in detail.
COUNTED = ("requests", "hits", "misses", "errors", "saved_nano", *REFUSALS)
BILLED = ("tokens", "cost_nano")
CALLS = ("calls", "failed_calls", "input_tokens", "cached_input_tokens", "output_tokens")
WITHOUT_CALLS = (*COUNTED, *BILLED)
FIELDS = (*WITHOUT_CALLS, *CALLS)


@dataclass(slots=True)
class UsageTotals:
    """Requests, tokens and nano-USD. A report sets the fields that it has."""

    requests: int = 0
    hits: int = 0
    misses: int = 0
    errors: int = 0
    tokens: int = 0
    saved_tokens: int = 0
    cost_nano: int = 0
    saved_nano: int = 0
    refused_rate: int = 0
    refused_tokens: int = 0
    refused_budget: int = 0
    refused_parallel: int = 0
    # Of calls to providers. `tokens` are the input and output tokens where these are reported.
    calls: int = 0
    failed_calls: int = 0
    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0

    def add(self, other: UsageTotals) -> None:
        # Runs for every request: a loop over the fields would take six times as long.
        self.requests += other.requests
        self.hits += other.hits
        self.misses += other.misses
        self.errors += other.errors
        self.tokens += other.tokens
        self.saved_tokens += other.saved_tokens
        self.cost_nano += other.cost_nano
        self.saved_nano += other.saved_nano
        self.refused_rate += other.refused_rate
        self.refused_tokens += other.refused_tokens
        self.refused_budget += other.refused_budget
        self.refused_parallel += other.refused_parallel
        self.calls += other.calls
        self.failed_calls += other.failed_calls
        self.input_tokens += other.input_tokens
        self.cached_input_tokens += other.cached_input_tokens
        self.output_tokens += other.output_tokens

    def only(self, names: Iterable[str]) -> UsageTotals:
        """These fields alone."""
        return UsageTotals(**{name: getattr(self, name) for name in names})

    def scaled(self, share: float) -> UsageTotals:
        """All fields multiplied by a share (0..1), rounded."""
        return UsageTotals(*(round(getattr(self, field.name) * share) for field in fields(self)))

    @property
    def hit_rate(self) -> float | None:
        looked_up = self.hits + self.misses
        return self.hits / looked_up if looked_up else None

    @property
    def refused(self) -> int:
        """Requests that Weir's own limits refused; they are in none of the other fields."""
        return sum(getattr(self, name) for name in REFUSALS)

    @property
    def cached_share(self) -> float | None:
        """The share (0..1) of input tokens that the providers' prompt caches knew."""
        return self.cached_input_tokens / self.input_tokens if self.input_tokens else None

    @property
    def error_rate(self) -> float | None:
        return self.errors / self.requests if self.requests else None
