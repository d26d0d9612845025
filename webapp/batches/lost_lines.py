"""Frees the lines that workers had who are gone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, select, tuple_, update

from webapp.batches.line_counts import add_totals, count_ended
from webapp.batches.tables import LineState, batch_lines, batches
from webapp.llm.calls import CallState
from webapp.metering.calls import NO_WORKER, ledger
from webapp.metering.heartbeats import workers
from webapp.metering.ledger import CALL_IDS_PER_WORKER

ROWS = 1_000
MAX_CALLS_OF_LOST = 5_000  # more than any worker has running
MAX_LOST = 3  # workers that were lost with a line, after which it is not begun again


def free_lost(connection: Connection) -> int:
    """Give back, or end, the lines of workers that are gone. Returns their number."""
    gone = (
        select(
            batch_lines.c.batch_id,
            batch_lines.c.number,
            batch_lines.c.worker_id,
            batch_lines.c.lost,
            batches.c.on_lost,
        )
        .join(batches, batches.c.id == batch_lines.c.batch_id)
        .where(
            batch_lines.c.worker_id.is_not(None),
            batch_lines.c.worker_id != NO_WORKER,
            batch_lines.c.worker_id.not_in(select(workers.c.id)),
        )
        .order_by(batch_lines.c.batch_id, batch_lines.c.number)
        .limit(ROWS)
        .with_for_update(skip_locked=True, of=batch_lines)
    )
    rows = connection.execute(gone).all()
    called = _called(connection, {row.worker_id for row in rows})
    begun = [row for row in rows if (row.batch_id, row.number) in called]
    ended = [row for row in begun if row.on_lost == "fail" or row.lost + 1 >= MAX_LOST]
    _update_all(connection, rows, state=LineState.WAITING, worker_id=None)
    _update_all(connection, begun, lost=batch_lines.c.lost + 1)
    failed = {"state": LineState.FAILED, "error": "worker_lost", "request": None}
    _update_all(connection, ended, **failed)
    count_ended(connection, Counter(), Counter(row.batch_id for row in ended))
    add_totals(connection, {"lost": len(begun)})
    return len(rows)


def _called(connection: Connection, gone: set[int]) -> set[tuple[str, int]]:
    """The lines for which these workers may have called a provider of late."""
    called: set[tuple[str, int]] = set()
    for worker_id in gone:
        first = worker_id * CALL_IDS_PER_WORKER
        latest = (
            select(ledger.c.batch_id, ledger.c.batch_line, ledger.c.state)
            .where(ledger.c.id.between(first, first + CALL_IDS_PER_WORKER - 1))
            .order_by(ledger.c.id.desc())
            .limit(MAX_CALLS_OF_LOST)
        )
        called |= {
            (row.batch_id, row.batch_line)
            for row in connection.execute(latest)
            if row.state != CallState.FAILED
        }
    return called


def _update_all(connection: Connection, rows: Sequence[Any], **values: Any) -> None:
    if rows:
        names = [(row.batch_id, row.number) for row in rows]
        which = tuple_(batch_lines.c.batch_id, batch_lines.c.number).in_(names)
        connection.execute(update(batch_lines).where(which).values(values))
