"""The lines of batches in the database: inserted, claimed by workers, ended or given back."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import (
    Connection,
    Select,
    bindparam,
    delete,
    exists,
    func,
    insert,
    select,
    tuple_,
    update,
)

from webapp.batches.batch import Batch, ClaimedLine, JobLine, LineUpdate, NewLine
from webapp.batches.line_counts import count_ended
from webapp.batches.lost_lines import free_lost
from webapp.batches.tables import BatchState, LineState, batch_lines, batches
from webapp.storage.database import Database
from webapp.storage.statements import execute_rows

# Rows of one transaction, which others wait for.
ROWS = 1_000
MAX_CLAIMED_BYTES = 8 * 1024 * 1024
MAX_ERROR_LENGTH = 64

REFUSED_ERROR = {
    "code": "internal_error",
    "message": "The result of this line could not be stored.",
}

_INSERT = insert(batch_lines)
_COLUMNS = ("number", "custom_id", "position", "length", "request", "tries", "lost")


class LineStore:
    """Every method may raise StoreUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def insert(self, batch_id: str, lines: Sequence[NewLine]) -> None:
        """Add lines that wait."""
        rows = [
            _row(batch_id, line.number, line.custom_id)
            | {"position": line.position, "length": line.length}
            for line in lines
        ]
        self._database.write(lambda connection: execute_rows(connection, _INSERT, rows))

    def delete_all(self, batch_id: str, *states: LineState) -> None:
        """Delete the lines of a batch, or those in these states."""
        which = [batch_lines.c.batch_id == batch_id]
        if states:
            which.append(batch_lines.c.state.in_(states))
        numbers = select(batch_lines.c.number).where(*which).limit(ROWS)
        statement = delete(batch_lines).where(
            batch_lines.c.batch_id == batch_id, batch_lines.c.number.in_(numbers)
        )
        while self._database.write(lambda connection: connection.execute(statement).rowcount):
            pass

    def drop_results(self, batch_id: str) -> None:
        """Forget the results of a batch's lines, which a file has now."""
        numbers = (
            select(batch_lines.c.number)
            .where(batch_lines.c.batch_id == batch_id, batch_lines.c.result.is_not(None))
            .limit(ROWS)
        )
        statement = (
            update(batch_lines)
            .where(batch_lines.c.batch_id == batch_id, batch_lines.c.number.in_(numbers))
            .values(result=None)
        )
        while self._database.write(lambda connection: connection.execute(statement).rowcount):
            pass

    def claim(self, batch: Batch, worker_id: int, count: int) -> list[ClaimedLine]:
        """Lines of a batch in progress that may begin now, which then belong to this worker."""
        return self._database.write(lambda c: _claim(c, batch, worker_id, count))

    def running_of(self, worker_id: int) -> set[tuple[str, int]]:
        """(batch id, number) of the lines that belong to this worker."""
        query = select(batch_lines.c.batch_id, batch_lines.c.number).where(
            batch_lines.c.worker_id == worker_id
        )
        rows = self._database.read(lambda connection: connection.execute(query).all())
        return {(batch_id, number) for batch_id, number in rows}

    def release(self, worker_id: int, names: Collection[tuple[str, int]]) -> None:
        """Give back lines of this worker that it has not begun."""
        if not names:
            return
        statement = (
            update(batch_lines)
            .where(
                tuple_(batch_lines.c.batch_id, batch_lines.c.number).in_(names),
                batch_lines.c.worker_id == worker_id,
                batch_lines.c.state == LineState.RUNNING,
            )
            .values(state=LineState.WAITING, worker_id=None, tries=batch_lines.c.tries - 1)
        )
        self._database.write(lambda connection: connection.execute(statement))

    def stop(self, batch_id: str, error: str) -> int:
        """End the lines that wait, with the code of the error that stops the batch."""
        return sum(iter(lambda: self._database.write(lambda c: _stop(c, batch_id, error)), 0))

    def free_lost(self) -> int:
        """Give back, or end, the lines of workers that are gone. Returns their number."""
        return self._database.write(free_lost)

    def results(
        self, batch_id: str, state: LineState
    ) -> Iterator[tuple[int, str, str | None, bytes | None]]:
        """(number, custom_id, error, result) of the lines in this state, in order."""
        after = 0
        while True:
            sizes = (
                select(batch_lines.c.number, func.coalesce(func.length(batch_lines.c.result), 0))
                .where(
                    batch_lines.c.batch_id == batch_id,
                    batch_lines.c.state == state,
                    batch_lines.c.number > after,
                )
                .order_by(batch_lines.c.number)
                .limit(ROWS)
            )
            found = self._rows(sizes)
            if not found:
                return
            for first, last in _spans(found):
                query = (
                    select(
                        batch_lines.c.number,
                        batch_lines.c.custom_id,
                        batch_lines.c.error,
                        batch_lines.c.result,
                    )
                    .where(
                        batch_lines.c.batch_id == batch_id,
                        batch_lines.c.state == state,
                        batch_lines.c.number.between(first, last),
                    )
                    .order_by(batch_lines.c.number)
                )
                yield from self._rows(query)
            after = found[-1][0]

    def failed(self, batch_id: str) -> Iterator[tuple[int, int]]:
        """(position, length) of the lines that have failed, in order."""
        after = 0
        while True:
            query = (
                select(batch_lines.c.number, batch_lines.c.position, batch_lines.c.length)
                .where(
                    batch_lines.c.batch_id == batch_id,
                    batch_lines.c.state == LineState.FAILED,
                    batch_lines.c.number > after,
                )
                .order_by(batch_lines.c.number)
                .limit(ROWS)
            )
            found = self._rows(query)
            yield from ((position, length) for _, position, length in found)
            if len(found) < ROWS:
                return
            after = found[-1][0]

    def _rows(self, query: Select[Any]) -> Sequence[Any]:
        return self._database.read(lambda connection: connection.execute(query).all())

    def of_job(self, job_id: str) -> JobLine:
        """The only line of a job."""
        columns = (batch_lines.c.state, batch_lines.c.error, batch_lines.c.result)
        query = select(*columns).where(batch_lines.c.batch_id == job_id)
        row = self._database.read(lambda connection: connection.execute(query).one())
        return JobLine(LineState(row.state), row.error, row.result)

    def failures(self, batch_id: str) -> dict[str, int]:
        """How many lines have failed, by the code of their error."""
        query = (
            select(batch_lines.c.error, func.count())
            .where(batch_lines.c.batch_id == batch_id, batch_lines.c.state == LineState.FAILED)
            .group_by(batch_lines.c.error)
        )
        rows = self._database.read(lambda connection: connection.execute(query).all())
        return {error or "unknown": count for error, count in rows}


def insert_job_line(connection: Connection, batch_id: str, request: bytes) -> None:
    """Add the line of a job."""
    row = _row(batch_id, 1, batch_id) | {"position": 0, "length": len(request)}
    connection.execute(_INSERT, row | {"request": request})


def write_updates(connection: Connection, updates: Sequence[LineUpdate]) -> None:
    """Write what became of lines, and count it in their batches.

    A line that does not belong to its worker any more is left alone: the worker was taken for
    gone, and another one has begun it again.
    """
    if not updates:
        return
    names = [(one.line.batch.id, one.line.number, one.line.worker_id) for one in updates]
    own = set(map(tuple, connection.execute(_OWN, {"names": names}).all()))
    written = [
        one
        for one, (batch_id, number, _) in zip(updates, names, strict=True)
        if (batch_id, number) in own
    ]
    if not written:
        return
    execute_rows(connection, _UPDATE, [_update_row(one) for one in written])
    succeeded, failed = Counter[str](), Counter[str]()
    for one in written:
        if one.state is LineState.SUCCEEDED:
            succeeded[one.line.batch.id] += 1
        elif one.state is LineState.FAILED:
            failed[one.line.batch.id] += 1
    count_ended(connection, succeeded, failed, cost_nano=sum(one.cost_nano for one in written))


def without_body(one: LineUpdate) -> LineUpdate | None:
    """What is written of a line whose result the database refuses; None if that was it already."""
    if one.error == REFUSED_ERROR["code"] or one.state is LineState.WAITING:
        return None
    return replace(one, state=LineState.FAILED, result=None, error=REFUSED_ERROR["code"])


def _row(batch_id: str, number: int, custom_id: str) -> dict[str, Any]:
    return {
        "batch_id": batch_id,
        "number": number,
        "custom_id": custom_id,
        "state": LineState.WAITING,
        "tries": 0,
        "lost": 0,
        "not_before": 0.0,
    }


def _claim(connection: Connection, batch: Batch, worker_id: int, count: int) -> list[ClaimedLine]:
    of_batch = batch_lines.c.batch_id == batch.id
    waiting = (
        select(*(batch_lines.c[name] for name in _COLUMNS))
        .where(
            of_batch,
            batch_lines.c.state == LineState.WAITING,
            batch_lines.c.not_before <= time.time(),
            exists().where(
                batches.c.id == batch.id,
                batches.c.state == BatchState.IN_PROGRESS,
                batches.c.stopped_by.is_(None),
            ),
        )
        .order_by(batch_lines.c.number)
        .limit(count)
        .with_for_update(skip_locked=True, of=batch_lines)
    )
    rows: list[Any] = []
    size = 0
    for row in connection.execute(waiting).all():
        size += row.length
        if rows and size > MAX_CLAIMED_BYTES:
            break
        rows.append(row)
    if not rows:
        return []
    taken = (
        update(batch_lines)
        .where(of_batch, batch_lines.c.number.in_([row.number for row in rows]))
        .values(state=LineState.RUNNING, worker_id=worker_id, tries=batch_lines.c.tries + 1)
    )
    connection.execute(taken)
    return [
        ClaimedLine(
            batch,
            worker_id,
            row.number,
            row.custom_id,
            row.position,
            row.length,
            row.request,
            row.tries + 1,
            row.lost,
        )
        for row in rows
    ]


def _stop(connection: Connection, batch_id: str, error: str) -> int:
    numbers = (
        select(batch_lines.c.number)
        .where(batch_lines.c.batch_id == batch_id, batch_lines.c.state == LineState.WAITING)
        .order_by(batch_lines.c.number)
        .limit(ROWS)
        .with_for_update()
    )
    found = connection.scalars(numbers).all()
    if found:
        which = (batch_lines.c.batch_id == batch_id, batch_lines.c.number.in_(found))
        ended = {"state": LineState.FAILED, "error": error, "request": None}
        connection.execute(update(batch_lines).where(*which).values(ended))
        name = "expired" if error == "batch_expired" else "stopped"
        count_ended(connection, Counter(), Counter({batch_id: len(found)}), failed_as=name)
    return len(found)


def _spans(sizes: Sequence[Any]) -> Iterator[tuple[int, int]]:
    """(first, last) numbers of lines that are read together."""
    first, size = sizes[0][0], 0
    last = first
    for number, length in sizes:
        if size and size + length > MAX_CLAIMED_BYTES:
            yield first, last
            first, size = number, 0
        size, last = size + length, number
    yield first, last


def _update_row(one: LineUpdate) -> dict[str, Any]:
    waits = one.state is LineState.WAITING
    return {
        "of_batch": one.line.batch.id,
        "of_number": one.line.number,
        "state": one.state,
        "worker_id": None,
        "tries": one.tries if waits else one.line.tries,
        "not_before": one.not_before,
        "error": one.error and one.error[:MAX_ERROR_LENGTH],
        "request": one.line.request if waits else None,
        "result": one.result,
    }


_NAME = tuple_(batch_lines.c.batch_id, batch_lines.c.number, batch_lines.c.worker_id)
_OWN = (
    select(batch_lines.c.batch_id, batch_lines.c.number)
    .where(_NAME.in_(bindparam("names", expanding=True)), batch_lines.c.state == LineState.RUNNING)
    .order_by(batch_lines.c.batch_id, batch_lines.c.number)
    .with_for_update()
)
_UPDATE = update(batch_lines).where(
    batch_lines.c.batch_id == bindparam("of_batch"), batch_lines.c.number == bindparam("of_number")
)
