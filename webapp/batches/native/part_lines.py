"""The lines of parts that are handed to a provider: which it has, and what is reserved for them."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Select, func, select, update

from webapp.batches.batch import Batch, ClaimedLine
from webapp.batches.native.parts import LinesChanged, Part, check_own
from webapp.batches.tables import LineState, batch_lines
from webapp.llm.calls import CallState
from webapp.metering.calls import NO_WORKER, ledger
from webapp.storage.database import Database

LAST_LINE = 2**31 - 1  # the highest number that a line can have
MAX_LINES_READ = 500  # at once
COLUMNS = ("number", "custom_id", "position", "length", "tries", "lost")


@dataclass(frozen=True, slots=True)
class Ceiling:
    """What was reserved for a line: tokens, nano-USD."""

    input_tokens: int = 0
    output_tokens: int = 0
    nano: int | None = None


class PartLines:
    """Every method may raise StoreUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def between(
        self, batch: Batch, first: int, last: int, state: LineState
    ) -> Iterator[ClaimedLine]:
        """The lines in this state, in order; those that run are the provider's."""
        after = first - 1
        while True:
            query = (
                select(*(batch_lines.c[name] for name in COLUMNS))
                .where(
                    batch_lines.c.batch_id == batch.id,
                    batch_lines.c.number > after,
                    batch_lines.c.number <= last,
                    _in_state(state),
                )
                .order_by(batch_lines.c.number)
                .limit(MAX_LINES_READ)
            )
            rows = self._rows(query)
            if not rows:
                return
            for row in rows:
                yield _line(batch, row)
            after = rows[-1].number

    def reserved(self, part: Part) -> list[int]:
        """The lines that have a reservation of this part, in order.

        One that an older version has taken for lost is one of them.
        """
        last_call = part.call_id(part.last_line)
        query = select(ledger.c.batch_line).where(
            ledger.c.id.between(part.first_call, last_call),
            ledger.c.state.in_((CallState.RESERVED, CallState.LOST)),
        )
        ordered = query.order_by(ledger.c.id)
        return list(self._database.read(lambda connection: connection.scalars(ordered).all()))

    def ceilings(self, part: Part, numbers: Collection[int]) -> dict[int, Ceiling]:
        """What is reserved for these lines, by number."""
        names = ("input_tokens", "output_tokens", "nano")
        columns = (ledger.c.batch_line, *(ledger.c[f"ceiling_{name}"] for name in names))
        query = select(*columns).where(ledger.c.id.in_([part.call_id(one) for one in numbers]))
        return {number: Ceiling(*ceiling) for number, *ceiling in self._rows(query)}

    def numbered(self, batch: Batch, numbers: Collection[int]) -> list[ClaimedLine]:
        """Those of the lines that the provider has, in order."""
        query = select(*(batch_lines.c[name] for name in COLUMNS)).where(
            batch_lines.c.batch_id == batch.id,
            batch_lines.c.number.in_(numbers),
            _in_state(LineState.RUNNING),
        )
        return [_line(batch, row) for row in self._rows(query.order_by(batch_lines.c.number))]

    def count(self, part: Part) -> int:
        """How many lines of a part the provider has."""
        query = select(func.count()).where(
            batch_lines.c.batch_id == part.batch.id,
            batch_lines.c.number.between(part.first_line, part.last_line),
            _in_state(LineState.RUNNING),
        )
        return self._database.read(lambda connection: connection.execute(query).scalar_one())

    def _rows(self, query: Select[Any]) -> Any:
        return self._database.read(lambda connection: connection.execute(query).all())


def take_lines(part: Part, numbers: Collection[int], connection: Connection) -> None:
    """Take lines that wait for the provider. Raises LinesChanged where one does not wait."""
    _move(connection, part, numbers, LineState.WAITING, LineState.RUNNING, NO_WORKER)


def give_lines_back(part: Part, numbers: Collection[int], connection: Connection) -> None:
    """Let lines wait again that the provider did not get. Raises LinesChanged as take_lines()."""
    _move(connection, part, numbers, LineState.RUNNING, LineState.WAITING, None)


def _move(
    connection: Connection,
    part: Part,
    numbers: Collection[int],
    before: LineState,
    after: LineState,
    worker_id: int | None,
) -> None:
    check_own(part, connection)
    # In order, as others who write lines.
    which = (
        batch_lines.c.batch_id == part.batch.id,
        batch_lines.c.number.in_(numbers),
        _in_state(before),
    )
    locked = select(batch_lines.c.number).where(*which).order_by(batch_lines.c.number)
    connection.execute(locked.with_for_update()).all()
    taken = update(batch_lines).where(*which)
    moved = connection.execute(taken.values(state=after, worker_id=worker_id)).rowcount
    if moved != len(numbers):
        raise LinesChanged


def _line(batch: Batch, row: Any) -> ClaimedLine:
    return ClaimedLine(
        batch, NO_WORKER, row.number, row.custom_id, row.position, row.length, None, row.tries,
        row.lost,
    )  # fmt: skip


def _in_state(state: LineState) -> Any:
    if state is LineState.RUNNING:
        return (batch_lines.c.state == state) & (batch_lines.c.worker_id == NO_WORKER)
    return batch_lines.c.state == state
