"""What of batches and jobs is deleted when it has been kept for long enough."""

from __future__ import annotations

from sqlalchemy import and_, or_, select

from webapp.batches.tables import ACTIVE, Kind, LineState, batch_lines, batches, native_batches
from webapp.files.tables import READY, files
from webapp.metering.budgets import NO_START, budgets
from webapp.storage.retention import Expired

DAY = 86_400.0  # seconds


def expired(batch_days: int, job_days: int) -> list[Expired]:
    """What is deleted: batches and jobs that ended so many days ago, their lines, their budgets."""
    known = select(batches.c.id)
    ended = batches.c.state.not_in(ACTIVE)
    return [
        (
            batches,
            lambda now: (
                ended,
                or_(
                    batches.c.created_at < now - batch_days * DAY,
                    and_(batches.c.kind == Kind.JOB, batches.c.created_at < now - job_days * DAY),
                ),
            ),
        ),
        (batch_lines, lambda _: (batch_lines.c.batch_id.not_in(known),)),
        # A worker was lost before it deleted them: their results are in the output file.
        (
            batch_lines,
            lambda _: (
                batch_lines.c.state == LineState.SUCCEEDED,
                batch_lines.c.batch_id.in_(
                    select(batches.c.id).where(ended, batches.c.kind == Kind.BATCH)
                ),
            ),
        ),
        # What failed is kept to be tried again, which needs the input file.
        (
            batch_lines,
            lambda _: (
                batch_lines.c.state == LineState.FAILED,
                batch_lines.c.batch_id.in_(
                    select(batches.c.id).where(
                        ended,
                        batches.c.kind == Kind.BATCH,
                        batches.c.input_file_id.not_in(
                            select(files.c.id).where(files.c.state == READY)
                        ),
                    )
                ),
            ),
        ),
        (native_batches, lambda _: (native_batches.c.batch_id.not_in(known),)),
        (budgets, lambda _: (budgets.c.start == NO_START, budgets.c.period.not_in(known))),
    ]
