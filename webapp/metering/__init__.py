"""Usage accounting: the ledger, budgets, counters, the request log and their reports."""
