"""What /metrics says of batches: read in one transaction, whatever the number of their lines."""

from __future__ import annotations

import time

from sqlalchemy import Connection, and_, case, func, select

from webapp.batches.tables import ACTIVE, Mode, batch_totals, batches
from webapp.batches.worker_presence import SEEN_WITHIN
from webapp.metering.heartbeats import workers
from webapp.observability.gauges import LINE_STATES, BatchFigures
from webapp.storage.database import DatabaseTime


def read_figures(connection: Connection) -> BatchFigures:
    """The state of all batches, for `Database.read`."""
    unfinished = batches.c.total - batches.c.succeeded - batches.c.failed
    # Lines that a provider has are not waited for here, and no worker makes them faster.
    waits = and_(unfinished > 0, batches.c.mode != Mode.NATIVE)
    by_state = (
        select(
            batches.c.state,
            func.count(),
            func.sum(case((waits, unfinished), else_=0)),
            func.min(case((waits, batches.c.created_at))),
        )
        .where(batches.c.state.in_(ACTIVE))
        .group_by(batches.c.state)
    )
    seen = select(func.count()).where(workers.c.batch_worker_seen_at > DatabaseTime() - SEEN_WITHIN)
    rows = connection.execute(by_state).all()
    names = select(batch_totals.c.name, batch_totals.c.value)
    totals = {row.name: row.value for row in connection.execute(names)}
    counts = {state: count for state, count, _, _ in rows}
    oldest = min((created for *_, created in rows if created is not None), default=None)
    return BatchFigures(
        batches={state.value: counts.get(state, 0) for state in ACTIVE},
        waiting_lines=sum(int(waiting) for _, _, waiting, _ in rows),
        oldest_waiting=0.0 if oldest is None else max(0.0, time.time() - oldest),
        workers=connection.execute(seen).scalar_one(),
        lines={state: totals.get(state, 0) for state in LINE_STATES},
        lost=totals.get("lost", 0),
        cost_nano=totals.get("cost_nano", 0),
    )
