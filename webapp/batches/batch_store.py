"""Batches and jobs in the database: created, found, moved from state to state."""

from __future__ import annotations

import json
import re
import secrets
import string
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    RowMapping,
    and_,
    func,
    insert,
    null,
    or_,
    select,
    update,
)

from webapp import money
from webapp.accounts.audit import Actor, record
from webapp.accounts.keys import api_keys, working
from webapp.batches.batch import Batch, JobLine, batch_of
from webapp.batches.lines import insert_job_line
from webapp.batches.tables import (
    ACTIVE,
    BatchState,
    Kind,
    LineState,
    Mode,
    batch_lines,
    batches,
)
from webapp.errors import Conflict, NotFound, RateLimitExceeded, StorageQuotaExceeded
from webapp.files.quotas import lock_quotas
from webapp.metering.budgets import NO_START, budgets
from webapp.metering.heartbeats import workers
from webapp.storage.database import Database

MAX_OF_A_KEY = 100  # batches that have not ended, as their lines are rows
MAX_ACTIVE, ACTIVE_OF_A_KEY = 500, 50  # batches that an executor looks at, jobs apart
# Anything else is not looked up: a database may refuse it.
ID = re.compile("[A-Za-z0-9_-]{1,40}")
ALPHABET = string.ascii_lowercase + string.digits
# The column that says since when a batch has been in a state.
TIME_COLUMNS = {
    BatchState.IN_PROGRESS: "in_progress_at",
    BatchState.FINALIZING: "finalizing_at",
    BatchState.COMPLETED: "completed_at",
    BatchState.FAILED: "failed_at",
    BatchState.EXPIRED: "expired_at",
    BatchState.CANCELLING: "cancelling_at",
    BatchState.CANCELLED: "cancelled_at",
}
EXPIRED_ERROR = {
    "code": "batch_expired",
    "message": "The batch's completion window ended before this line was begun.",
}
CANCELLED_ERROR = {
    "code": "batch_cancelled",
    "message": "The batch was cancelled before this line was begun.",
}
REVOKED_ERROR = {
    "code": "key_revoked",
    "message": "The API key of this batch was revoked before this line was begun.",
}
CANCELLING_CODES = {CANCELLED_ERROR["code"], REVOKED_ERROR["code"]}


def new_id(prefix: str) -> str:
    """An id that nobody can guess."""
    return f"{prefix}_{''.join(secrets.choice(ALPHABET) for _ in range(24))}"


class BatchStore:
    """Every method may raise StoreUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(
        self,
        *,
        key_id: int,
        endpoint: str,
        input_file_id: str,
        metadata: dict[str, str] | None,
        completion_window: str,
        seconds: float,
        mode: Mode,
        cap_nano: int | None,
        on_lost: str,
        output_expires_after: int | None,
        request_id: str,
        actor: Actor | None = None,
    ) -> Batch:
        """A batch whose file is to be validated. It expires after so many seconds.

        `actor` is a person who starts it by hand, for the audit log. Raises RateLimitExceeded if
        MAX_OF_A_KEY batches of the key have not ended.
        """
        row = _row(new_id("batch"), Kind.BATCH, key_id, endpoint, request_id, seconds) | {
            "state": BatchState.VALIDATING,
            "completion_window": completion_window,
            "input_file_id": input_file_id,
            "metadata": metadata and json.dumps(metadata),
            "mode": mode,
            "cap_nano": cap_nano,
            "on_lost": on_lost,
            "output_expires_after": output_expires_after,
        }
        return self._insert(row, _check_count, actor=actor)

    def check_count(self, key_id: int) -> None:
        """Raise RateLimitExceeded if create() would now, before a file is stored for it."""
        self._database.read(lambda connection: _check_count(connection, key_id))

    def create_job(
        self,
        *,
        key_id: int,
        endpoint: str,
        request: bytes,
        callback_url: str | None,
        seconds: float,
        request_id: str,
        quota: int,
    ) -> Batch:
        """A job that may begin at once.

        Raises StorageQuotaExceeded if the requests of this key's jobs that have not ended would
        have more than `quota` bytes.
        """

        def check(connection: Connection, key_id: int) -> None:
            _check_bytes(connection, key_id, len(request), quota)

        job_id = new_id("job")
        row = _row(job_id, Kind.JOB, key_id, endpoint, request_id, seconds) | {
            "state": BatchState.IN_PROGRESS,
            "in_progress_at": time.time(),
            "total": 1,
            "callback_url": callback_url,
        }
        return self._insert(row, check, request)

    def _insert(
        self,
        row: dict[str, Any],
        check: Callable[[Connection, int], None],
        request: bytes | None = None,
        actor: Actor | None = None,
    ) -> Batch:
        def write(connection: Connection) -> Row[Any]:
            lock_quotas(connection, row["key_id"])
            check(connection, row["key_id"])
            written = connection.execute(insert(batches).values(row).returning(batches)).one()
            if request is not None:
                insert_job_line(connection, row["id"], request)
            if actor:
                record(connection, actor, "batch.start", row["id"], None, _audited(row))
            return written

        return batch_of(self._database.write(write)._mapping)

    def find(
        self,
        batch_id: str,
        *,
        key_id: int | None = None,
        key_ids: Collection[int] | None = None,
        kind: Kind = Kind.BATCH,
    ) -> Batch:
        """A batch, of this key or of these keys if any are given. Raises NotFound."""
        read = partial(_find, batch_id=batch_id, key_id=key_id, key_ids=key_ids, kind=kind)
        return batch_of(self._database.read(read))

    def page(
        self,
        *,
        key_id: int | None = None,
        key_ids: Collection[int] | None = None,
        kind: Kind = Kind.BATCH,
        after: str | None = None,
        limit: int = 20,
        where: Sequence[ColumnElement[bool]] = (),
        with_errors: bool = True,
    ) -> tuple[list[Batch], bool]:
        """The newest batches, as find() has them, and whether there are more.

        `after` is the id of the last one of the page before. Raises NotFound if it is unknown.
        `where` are more conditions.
        Without errors, those of validation, of which there may be many, are not read.
        """
        columns = [
            column if with_errors or column is not batches.c.errors else null().label("errors")
            for column in batches.c
        ]
        query = select(*columns).where(batches.c.kind == kind, *_of_keys(key_id, key_ids))
        query = query.where(*where)
        query = query.order_by(batches.c.created_at.desc(), batches.c.id.desc()).limit(limit + 1)

        def read(connection: Connection) -> Sequence[RowMapping]:
            page = query
            if after is not None:
                last = _find(connection, after, key_id, key_ids, kind)
                page = query.where(
                    or_(
                        batches.c.created_at < last["created_at"],
                        and_(batches.c.created_at == last["created_at"], batches.c.id < last["id"]),
                    )
                )
            return connection.execute(page).mappings().all()

        rows = self._database.read(read)
        return [batch_of(row) for row in rows[:limit]], len(rows) > limit

    def cancel(self, batch: Batch, actor: Actor | None = None) -> Batch:
        """Let no further line begin. Raises Conflict if the batch has ended.

        `actor` is a person who does it by hand, for the audit log.
        """

        def write(connection: Connection) -> Batch | None:
            stopped = {"stopped_by": json.dumps(CANCELLED_ERROR)}
            moved = _move(connection, batch.id, BatchState.CANCELLING, ACTIVE[:2], stopped)
            if moved and actor:
                states = {"state": batch.state}, {"state": moved.state}
                record(connection, actor, f"{batch.kind}.cancel", batch.id, *states)
            return moved

        moved = self._database.write(write)
        if moved is None:
            now = self.find(batch.id, kind=batch.kind)
            if now.state in {BatchState.CANCELLING, BatchState.CANCELLED}:
                return now
            raise Conflict(f"The {now.kind} '{now.id}' is {now.state} and cannot be cancelled.")
        return moved

    def stop(self, batch_id: str, error: dict[str, str]) -> None:
        """Let no further line begin, because of this error. The first error stays.

        A revoked key cancels the batch; with any other error it will be complete.
        """
        statement = update(batches).where(
            batches.c.id == batch_id,
            batches.c.state == BatchState.IN_PROGRESS,
            batches.c.stopped_by.is_(None),
        )
        stopped: dict[str, Any] = {"stopped_by": json.dumps(error)}
        if error["code"] in CANCELLING_CODES:
            stopped |= {"state": BatchState.CANCELLING, "cancelling_at": time.time()}
        self._database.write(lambda connection: connection.execute(statement.values(stopped)))

    def set_mode(self, batch_id: str, mode: Mode, reason: str) -> None:
        """Work on a batch in another way from now on."""
        statement = update(batches).where(batches.c.id == batch_id)
        changed = statement.values(mode=mode, mode_reason=reason)
        self._database.write(lambda connection: connection.execute(changed))

    def move(
        self,
        batch_id: str,
        state: BatchState,
        *,
        of: Sequence[BatchState],
        taken_by: int | None = None,
        **values: Any,
    ) -> Batch | None:
        """Move a batch to a state.

        Returns it, or None if it was in none of the states `of`, or does not belong to the worker
        `taken_by` any more.
        """
        return self._database.write(lambda c: _move(c, batch_id, state, of, values, taken_by))

    def take(self, batch_id: str, state: BatchState, worker_id: int) -> Batch | None:
        """Take a batch in this state for this worker, unless another worker has it."""
        statement = (
            update(batches)
            .where(
                batches.c.id == batch_id,
                batches.c.state == state,
                or_(_is_free(), batches.c.worker_id == worker_id),
            )
            .values(worker_id=worker_id)
            .returning(batches)
        )
        row = self._database.write(lambda connection: connection.execute(statement).first())
        return batch_of(row._mapping) if row else None

    def give_back(self, batch: Batch) -> None:
        """Give back a batch that its worker has taken, unless it did so already."""
        own = update(batches).where(
            batches.c.id == batch.id, batches.c.worker_id == batch.worker_id
        )
        self._database.write(lambda connection: connection.execute(own.values(worker_id=None)))

    def release(self, worker_id: int) -> None:
        """Give back all batches that this worker has taken."""
        own = update(batches).where(batches.c.worker_id == worker_id).values(worker_id=None)
        self._database.write(lambda connection: connection.execute(own))

    def active(self) -> list[Batch]:
        """The batches that have not ended, a few of each key, so that none waits for another's.

        The keys take turns: first the oldest of each, jobs before batches.
        """
        age = func.row_number().over(
            partition_by=(batches.c.key_id, batches.c.kind),
            order_by=(batches.c.created_at, batches.c.id),
        )
        ranked = select(batches.c.id, age.label("rank")).where(batches.c.state.in_(ACTIVE))
        found = ranked.subquery()
        query = (
            select(batches)
            .join(found, found.c.id == batches.c.id)
            .where(found.c.rank <= ACTIVE_OF_A_KEY)
            .order_by(found.c.rank, batches.c.kind.desc(), batches.c.created_at)
            .limit(MAX_ACTIVE)
        )
        rows = self._database.read(lambda connection: connection.execute(query).mappings().all())
        return [batch_of(row) for row in rows]

    def any_active(self) -> bool:
        query = select(batches.c.id).where(batches.c.state.in_(ACTIVE)).limit(1)
        return self._database.read(lambda c: c.execute(query).first()) is not None

    def cancel_revoked(self) -> list[str]:
        """Cancel the batches whose key does not work any more. Returns their ids."""
        query = select(batches.c.id).where(
            batches.c.state.in_(ACTIVE[:2]),
            batches.c.key_id.not_in(select(api_keys.c.id).where(*working())),
        )
        ids = self._database.read(lambda connection: connection.scalars(query).all())
        stopped_by = json.dumps(REVOKED_ERROR)
        return [
            batch_id
            for batch_id in ids
            if self.move(batch_id, BatchState.CANCELLING, of=ACTIVE[:2], stopped_by=stopped_by)
        ]

    def job_lines(self, some: Sequence[Batch]) -> dict[str, JobLine]:
        """The lines of those that are jobs, by id, without their results."""
        ids = [batch.id for batch in some if batch.kind is Kind.JOB]
        if not ids:
            return {}
        columns = (batch_lines.c.batch_id, batch_lines.c.state, batch_lines.c.error)
        query = select(*columns).where(batch_lines.c.batch_id.in_(ids))
        rows = self._database.read(lambda connection: connection.execute(query).all())
        return {row.batch_id: JobLine(LineState(row.state), row.error, None) for row in rows}

    def spent(self, batch: Batch) -> tuple[int, int]:
        """Nano-USD that a batch has spent, and has reserved."""
        return self.spent_by([batch]).get(batch.id, (0, 0))

    def spent_by(self, some: Sequence[Batch]) -> dict[str, tuple[int, int]]:
        """spent() of several, by id, where it is known."""
        query = select(budgets.c.period, budgets.c.spent_nano, budgets.c.reserved_nano).where(
            budgets.c.key_id.in_({batch.key_id for batch in some}),
            budgets.c.period.in_([batch.id for batch in some]),
            budgets.c.start == NO_START,
        )
        rows = self._database.read(lambda connection: connection.execute(query).all())
        return {period: (spent, reserved) for period, spent, reserved in rows}


def cap_of(metadata: Mapping[str, str]) -> int | None:
    """The cost cap (nano-USD) that a batch's metadata names. Raises ValueError."""
    cap = metadata.get("weir_cost_cap_usd")
    return None if cap is None else money.to_nano(cap)


def _find(
    connection: Connection,
    batch_id: str,
    key_id: int | None,
    key_ids: Collection[int] | None,
    kind: Kind,
) -> RowMapping:
    """The row of a batch, of this key or of these keys if any are given. Raises NotFound."""
    query = select(batches).where(batches.c.id == batch_id, batches.c.kind == kind)
    query = query.where(*_of_keys(key_id, key_ids))
    row = connection.execute(query).mappings().first() if ID.fullmatch(batch_id) else None
    if row is None:
        raise NotFound(f"No {kind} found with id '{batch_id[:64]}'.")
    return row


def _of_keys(key_id: int | None, key_ids: Collection[int] | None) -> list[ColumnElement[bool]]:
    wanted = key_ids if key_id is None else {key_id}
    return [] if wanted is None else [batches.c.key_id.in_(wanted)]


def _move(
    connection: Connection,
    batch_id: str,
    state: BatchState,
    of: Sequence[BatchState],
    values: dict[str, Any],
    taken_by: int | None = None,
) -> Batch | None:
    which = [batches.c.id == batch_id, batches.c.state.in_(of)]
    if taken_by is not None:
        which.append(batches.c.worker_id == taken_by)
    statement = (
        update(batches)
        .where(*which)
        .values({"state": state, TIME_COLUMNS[state]: time.time(), **values})
        .returning(batches)
    )
    row = connection.execute(statement).first()
    return batch_of(row._mapping) if row else None


def _audited(row: dict[str, Any]) -> dict[str, Any]:
    """What the audit log says of a new batch."""
    names = ("key_id", "endpoint", "input_file_id", "mode", "on_lost")
    return {name: row[name] for name in names} | {"cap_usd": money.to_usd(row["cap_nano"])}


def _check_count(connection: Connection, key_id: int) -> None:
    query = select(func.count()).where(
        batches.c.key_id == key_id, batches.c.kind == Kind.BATCH, batches.c.state.in_(ACTIVE)
    )
    active = connection.execute(query).scalar_one()
    if active >= MAX_OF_A_KEY:
        raise RateLimitExceeded(
            f"{active} batches of this key have not ended; {MAX_OF_A_KEY} are allowed at once. "
            "Wait until one has ended, or cancel one.",
            details={"limit": "active_batches", "size": MAX_OF_A_KEY, "used": active},
            retry_after=60,
        )


def _check_bytes(connection: Connection, key_id: int, size: int, quota: int) -> None:
    query = (
        select(func.coalesce(func.sum(batch_lines.c.length), 0))
        .join(batches, batches.c.id == batch_lines.c.batch_id)
        .where(
            batches.c.state.in_(ACTIVE),
            batches.c.kind == Kind.JOB,
            batches.c.key_id == key_id,
        )
    )
    used = int(connection.execute(query).scalar_one())
    if used + size > quota:
        raise StorageQuotaExceeded(
            f"The requests of your jobs that have not ended would have {used + size:,} bytes; "
            f"{quota:,} are allowed.",
            details={"limit": "job_bytes", "size": quota, "used": used},
        )


def _is_free() -> Any:
    gone = batches.c.worker_id.not_in(select(workers.c.id))
    return or_(batches.c.worker_id.is_(None), gone)


def _row(
    batch_id: str, kind: Kind, key_id: int, endpoint: str, request_id: str, seconds: float
) -> dict[str, Any]:
    now = time.time()
    return {
        "id": batch_id,
        "kind": kind,
        "key_id": key_id,
        "endpoint": endpoint,
        "completion_window": "",
        "mode": Mode.DIRECT,
        "on_lost": "retry",
        "total": 0,
        "succeeded": 0,
        "failed": 0,
        "request_id": request_id,
        "callback_attempts": 0,
        "created_at": now,
        "expires_at": now + seconds,
    }
