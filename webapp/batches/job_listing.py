"""Jobs as operators list them: by the statuses that their clients see."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import ColumnElement, and_, func, select

from webapp.batches.batch import Batch
from webapp.batches.batch_store import EXPIRED_ERROR, BatchStore
from webapp.batches.job import JobStatus, status_of
from webapp.batches.tables import LineState, batch_lines, batches

_failed = batch_lines.c.state == LineState.FAILED
_error = func.coalesce(batch_lines.c.error, "")
_OF_LINE = {
    JobStatus.QUEUED: batch_lines.c.state == LineState.WAITING,
    JobStatus.RUNNING: batch_lines.c.state == LineState.RUNNING,
    JobStatus.COMPLETED: batch_lines.c.state == LineState.SUCCEEDED,
    JobStatus.FAILED: and_(_failed, _error != EXPIRED_ERROR["code"]),
    JobStatus.EXPIRED: and_(_failed, _error == EXPIRED_ERROR["code"]),
}


def having(status: JobStatus) -> list[ColumnElement[bool]]:
    """The conditions of jobs that have this status, as status_of() tells it."""
    if status is JobStatus.CANCELLED:
        return [batches.c.cancelling_at.is_not(None)]
    line = select(batch_lines.c.number).where(
        batch_lines.c.batch_id == batches.c.id, _OF_LINE[status]
    )
    return [batches.c.cancelling_at.is_(None), line.exists()]


def states_of(store: BatchStore, some: Sequence[Batch]) -> dict[str, str]:
    """By id, the statuses of those that are jobs, and the states of the others."""
    lines = store.job_lines(some)
    return {
        one.id: str(status_of(one, lines[one.id]) if one.id in lines else one.state) for one in some
    }
