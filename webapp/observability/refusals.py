"""Which of Weir's own limits refused a request, and the kind under which that is counted."""

from __future__ import annotations

from webapp.errors import (
    BudgetExceeded,
    BudgetReserved,
    RateLimitExceeded,
    SessionLimitExceeded,
    WeirError,
)

# The counter of each limit (metering.totals). `requests` stands for all limits of requests per
# time, `usd_reserved` for budgets of which running calls have reserved the rest.
COUNTER_OF_LIMIT = {
    "requests": "refused_rate",
    "requests_per_day": "refused_rate",
    "parallel_requests": "refused_parallel",
    "requests_per_session": "refused_rate",
    "tokens_per_minute": "refused_tokens",
    "usd_per_day": "refused_budget",
    "usd_per_month": "refused_budget",
    "usd_per_session": "refused_budget",
    "usd_reserved": "refused_budget",
}


def limit_of(error: WeirError) -> str | None:
    """The limit that refused a request, one of COUNTER_OF_LIMIT; None for any other error."""
    if isinstance(error, BudgetReserved):
        return "usd_reserved"
    if not isinstance(error, RateLimitExceeded | BudgetExceeded | SessionLimitExceeded):
        return None
    limit = (error.details or {}).get("limit")
    return limit if limit in COUNTER_OF_LIMIT else "requests"
