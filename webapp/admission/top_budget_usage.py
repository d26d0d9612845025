"""How full the fullest budgets are, for /metrics."""

from __future__ import annotations

import time

from webapp.admission.identity import Identities
from webapp.metering.ledger import Ledger
from webapp.observability.gauges import BudgetUse

MAX_RESULTS = 50
MAX_KEYS = 1_000
RESULT_TTL = 15.0  # seconds


class TopBudgetUsage:
    """Finds them among the keys that have spent most this month."""

    def __init__(self, ledger: Ledger, identities: Identities) -> None:
        self._ledger = ledger
        self._identities = identities
        self._found: list[BudgetUse] = []
        self._found_until = 0.0

    def __call__(self) -> list[BudgetUse]:
        """The fullest first. Raises StoreUnavailable."""
        if time.monotonic() >= self._found_until:
            self._found = self._find()
            self._found_until = time.monotonic() + RESULT_TTL
        return self._found

    def _find(self) -> list[BudgetUse]:
        principals = self._identities.of_key_ids(self._ledger.spenders(MAX_KEYS))
        budgets = self._ledger.budgets_of_all([one.billing_context() for one in principals])
        uses = [
            BudgetUse(f"{one.name} ({one.key_id})", budget.period, budget.spent / budget.limit)
            for one in principals
            for budget in budgets.get(one.key_id, ())
            if budget.limit
        ]
        return sorted(uses, key=lambda use: use.ratio, reverse=True)[:MAX_RESULTS]
