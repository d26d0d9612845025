"""Parts of batches that are handed to a provider: their table."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Delete,
    Update,
    exists,
    func,
    insert,
    or_,
    select,
    update,
)

from webapp.batches.batch import Batch, batch_of
from webapp.batches.tables import (
    BatchState,
    LineState,
    Mode,
    NativeState,
    batch_lines,
    batches,
    native_batches,
)
from webapp.metering.heartbeats import workers
from webapp.storage.database import Database

NOTICED_WITHIN = 16.0  # seconds until a part of a stopped batch is looked at
OPEN = native_batches.c.state != NativeState.COLLECTED
_IS_READY = (
    batches.c.state == BatchState.IN_PROGRESS,
    batches.c.mode == Mode.NATIVE,
    batches.c.stopped_by.is_(None),
    exists().where(
        batch_lines.c.batch_id == batches.c.id, batch_lines.c.state == LineState.WAITING
    ),
    ~exists().where(
        native_batches.c.batch_id == batches.c.id,
        native_batches.c.state == NativeState.RESERVING,
    ),
)


class LinesChanged(Exception):
    """Lines that were to be taken do not wait any more, or another worker has their part."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part as it was when `worker_id` took it; see tables.py."""

    batch: Batch
    part: int
    provider: str
    model: str
    token: str
    state: NativeState
    provider_file_id: str | None
    provider_batch_id: str | None
    first_line: int
    last_line: int
    first_call: int | None
    worker_id: int
    cancelled_at: float | None
    created_at: float

    @property
    def is_stopped(self) -> bool:
        return self.batch.stopped_by is not None or self.batch.state is not BatchState.IN_PROGRESS

    def call_id(self, number: int) -> int:
        """The ledger's id of the call of a line."""
        assert self.first_call is not None
        return self.first_call + number - self.first_line

    def custom_id(self, number: int) -> str:
        """How the provider knows a line."""
        return f"{self.token}-{number}"

    def number(self, custom_id: str) -> int | None:
        """The line of a custom_id; None where it is of no line of this part."""
        token, _, number = custom_id.rpartition("-")
        if token != self.token or not number.isascii() or not number.isdigit():
            return None
        found = int(number)
        return found if self.first_line <= found <= self.last_line else None


class PartStore:
    """Every method may raise StoreUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def ready(self) -> list[Batch]:
        """The native batches of which lines wait that belong to no part yet."""
        query = select(batches).where(*_IS_READY)
        rows = self._database.read(lambda connection: connection.execute(query).mappings().all())
        return [batch_of(row) for row in rows]

    def add(self, batch: Batch, provider: str, model: str) -> None:
        """Begin a part, unless another worker has begun one, or the batch was stopped."""
        of_batch = native_batches.c.batch_id == batch.id
        lines = select(func.min(batch_lines.c.number), func.max(batch_lines.c.number)).where(
            batch_lines.c.batch_id == batch.id, batch_lines.c.state == LineState.WAITING
        )
        last = select(func.coalesce(func.max(native_batches.c.part), 0)).where(of_batch)
        # Whoever begins a part of it waits here. Only a statement after this one sees what those
        # before have committed.
        locked = select(batches.c.id).where(batches.c.id == batch.id).with_for_update()
        ready = select(batches.c.id).where(batches.c.id == batch.id, *_IS_READY)

        def write(connection: Connection) -> None:
            connection.execute(locked).all()
            if connection.execute(ready).first() is None:
                return
            first_line, last_line = connection.execute(lines).one()
            part = connection.execute(last).scalar_one() + 1
            now = time.time()
            row = {
                "batch_id": batch.id,
                "part": part,
                "provider": provider,
                "model": model,
                "token": f"weir-{secrets.token_hex(12)}",
                "state": NativeState.RESERVING,
                "first_line": first_line,
                "last_line": last_line,
                "due_at": now,
                "created_at": now,
            }
            connection.execute(insert(native_batches).values(row))

        self._database.write(write)

    def take_due(self, worker_id: int) -> Part | None:
        """Take a part whose next step is due for this worker, unless another worker has it."""
        free = or_(
            native_batches.c.worker_id.is_(None),
            native_batches.c.worker_id.not_in(select(workers.c.id)),
        )
        due = (
            select(native_batches.c.batch_id, native_batches.c.part)
            .where(OPEN, native_batches.c.due_at <= time.time(), free)
            .order_by(native_batches.c.due_at)
            .limit(1)
            .with_for_update(skip_locked=True)
        )

        def take(connection: Connection) -> Part | None:
            found = connection.execute(due).first()
            if found is None:
                return None
            taken = (
                update(native_batches)
                .where(*_is(found.batch_id, found.part))
                .values(worker_id=worker_id)
                .returning(native_batches)
            )
            row = connection.execute(taken).mappings().one()
            batch = select(batches).where(batches.c.id == found.batch_id)
            of_batch = connection.execute(batch).mappings().first()
            if of_batch is None:
                gone = native_batches.delete().where(*_is(found.batch_id, found.part))
                connection.execute(gone)
                return None
            return _part(row, batch_of(of_batch))

        return self._database.write(take)

    def release(self, worker_id: int) -> None:
        """Give back what this worker has taken."""
        own = update(native_batches).where(native_batches.c.worker_id == worker_id)
        self._database.write(lambda connection: connection.execute(own.values(worker_id=None)))

    def change(self, part: Part, **values: Any) -> None:
        """Change a part. Raises LinesChanged where another worker has taken it meanwhile."""
        self._write(update(native_batches).where(*_is_own(part)).values(**values))

    def end(self, part: Part) -> None:
        """Raises LinesChanged where another worker has taken it meanwhile."""
        state = NativeState.COLLECTED
        self.change(part, state=state, collected_at=time.time(), worker_id=None)

    def delete(self, part: Part) -> None:
        """Raises LinesChanged where another worker has taken it meanwhile."""
        self._write(native_batches.delete().where(*_is_own(part)))

    def _write(self, statement: Update | Delete) -> None:
        if not self._database.write(lambda connection: connection.execute(statement).rowcount):
            raise LinesChanged

    def any_open(self) -> bool:
        """Whether a provider has, or is to get, a part of any batch."""
        query = select(exists().where(OPEN))
        return bool(self._database.read(lambda connection: connection.execute(query).scalar()))

    def seconds_until_due(self) -> float | None:
        query = select(func.min(native_batches.c.due_at)).where(OPEN)
        due = self._database.read(lambda connection: connection.execute(query).scalar())
        return None if due is None else max(0.0, due - time.time())

    def stopped(self) -> None:
        """Let the parts of batches that were stopped be due now, if they wait for longer."""
        stopped = select(batches.c.id).where(
            or_(batches.c.stopped_by.is_not(None), batches.c.state == BatchState.CANCELLING)
        )
        # One that is being cancelled is looked at as any other one, and so is one whose provider
        # was away a moment ago.
        which = (
            OPEN,
            native_batches.c.batch_id.in_(stopped),
            native_batches.c.cancelled_at.is_(None),
            native_batches.c.due_at > time.time() + NOTICED_WITHIN,
            native_batches.c.worker_id.is_(None),
        )
        found = select(native_batches.c.batch_id).where(*which).limit(1)
        if self._database.read(lambda connection: connection.execute(found).first()):
            statement = update(native_batches).where(*which).values(due_at=time.time())
            self._database.write(lambda connection: connection.execute(statement))

    def provider_ids(self, provider: str) -> list[str]:
        """The ids of the provider's batches that are known."""
        query = select(native_batches.c.provider_batch_id).where(
            native_batches.c.provider == provider,
            native_batches.c.provider_batch_id.is_not(None),
        )
        return list(self._database.read(lambda connection: connection.scalars(query).all()))


def check_own(part: Part, connection: Connection) -> None:
    """Keep a part for its worker until the transaction ends. Raises LinesChanged where another
    worker has taken it, or has reserved its lines anew."""
    own = select(native_batches.c.part).where(
        *_is_own(part), native_batches.c.first_call == part.first_call
    )
    if connection.execute(own.with_for_update()).first() is None:
        raise LinesChanged


def _is(batch_id: str, part: int) -> tuple[ColumnElement[bool], ...]:
    return native_batches.c.batch_id == batch_id, native_batches.c.part == part


def _is_own(part: Part) -> tuple[ColumnElement[bool], ...]:
    return *_is(part.batch.id, part.part), native_batches.c.worker_id == part.worker_id


def _part(row: Any, batch: Batch) -> Part:
    fields = {name: row[name] for name in Part.__slots__ if name != "batch"}
    return Part(batch=batch, **fields | {"state": NativeState(row["state"])})
