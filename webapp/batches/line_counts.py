"""Counts how lines ended, for their batches and for the totals of all."""

from __future__ import annotations

from collections import Counter

from sqlalchemy import Connection, bindparam, update

from webapp.batches.tables import batch_totals, batches
from webapp.storage.database import increment
from webapp.storage.statements import execute_rows

_COUNT = (
    update(batches)
    .where(batches.c.id == bindparam("of_batch"))
    .values(
        succeeded=batches.c.succeeded + bindparam("more_succeeded"),
        failed=batches.c.failed + bindparam("more_failed"),
    )
)


def count_ended(
    connection: Connection,
    succeeded: Counter[str],
    failed: Counter[str],
    *,
    cost_nano: int = 0,
    failed_as: str = "failed",
) -> None:
    """Add to the counts of batches, and to those of all batches ever.

    A batch counts as failed what was never begun, too; the total of these is another one.
    """
    rows = [
        {
            "of_batch": batch_id,
            "more_succeeded": succeeded[batch_id],
            "more_failed": failed[batch_id],
        }
        for batch_id in sorted({*succeeded, *failed})
    ]
    if not rows:
        return
    connection.execute(_COUNT, rows)
    totals = {
        failed_as: failed.total(),
        "succeeded": succeeded.total(),
        "cost_nano": cost_nano,
    }
    add_totals(connection, totals)


def add_totals(connection: Connection, totals: dict[str, int]) -> None:
    rows = [{"name": name, "value": value} for name, value in sorted(totals.items()) if value]
    if rows:
        execute_rows(connection, increment(connection, batch_totals, ("value",)), rows)
