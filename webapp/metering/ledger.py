"""The ledger: a row for each call to a provider, reserved before it is made, settled after it.

One greenlet of each worker writes: what has gathered meanwhile goes into one transaction, so that
a burst of calls shares its commits. A transaction locks rows in one order (ledger, usage, activity,
budgets), each sorted, so that workers do not wait for each other in a circle.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, defaultdict, deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from functools import partial
from itertools import count
from typing import Any

import gevent
from gevent.event import AsyncResult, Event
from sqlalchemy import (
    Connection,
    Row,
    and_,
    insert,
    or_,
    select,
    tuple_,
)

from webapp import money
from webapp.errors import BudgetExceeded, ModelNotPriced, StoreUnavailable, WeirError
from webapp.llm.messages import Usage
from webapp.llm.ports import Call, CallState, Payer, Settlement
from webapp.metering.alerts import Alerts
from webapp.metering.budgets import (
    MONTH,
    Budget,
    Period,
    Spending,
    budgets,
    limits_of,
    starts,
)
from webapp.metering.calls import USED, ledger
from webapp.metering.heartbeats import Heartbeats, workers
from webapp.metering.settlements import Settling, settle
from webapp.storage.database import Database, increment

log = logging.getLogger(__name__)

_INSERT = insert(ledger)
BATCH = 200
GATHERED_FOR = 0.03  # seconds that settlements may wait for a reservation to go along with
COMPANY_FOR = 0.008  # seconds between two transactions while many reserve: each costs as ten calls
SWEPT_AT_ONCE = 500
CALLS_OF_A_WORKER = 1 << 32
LAST_ATTEMPTS = 3.0  # seconds that a worker which ends tries to write what is left


@dataclass(slots=True, eq=False)
class _Reservation:
    """A call that waits to be written; `outcome` is None, or what refuses it."""

    call: Call
    id: int
    outcome: AsyncResult = field(default_factory=AsyncResult)


class Ledger:
    """Reserves and settles calls. `allow_unpriced` lets budgets pass models without a price."""

    def __init__(
        self,
        database: Database,
        heartbeats: Heartbeats,
        alerts: Alerts,
        *,
        allow_unpriced: bool,
    ) -> None:
        self._database = database
        self._heartbeats = heartbeats
        self._alerts = alerts
        self._allow_unpriced = allow_unpriced
        self._numbers = count(1)
        self._reserving: deque[_Reservation] = deque()
        self._settling: deque[Settling] = deque()
        self._payers: dict[int, Payer] = {}
        self._handed_in = Event()
        self._writer: gevent.Greenlet | None = None
        self._gathering: gevent.Greenlet | None = None

    # What the core calls.

    def check(self, payer: Payer, nano: int | None, unpriced: str | None) -> None:
        """Raise what would refuse the payer such a call even if it were alone."""
        if not payer.has_budget:
            return
        self._check_price(nano, unpriced)
        for budget in self.budgets_of(payer):
            refusal = budget.refusal(nano or 0, time.time(), alone=True)
            if refusal:
                raise refusal

    def reserve(self, call: Call) -> int:
        """Write a call at its ceiling, and come back when that is committed."""
        if call.payer.has_budget:
            self._check_price(call.nano, call.unpriced)
        worker_id = self._heartbeats.register()
        reservation = _Reservation(call, worker_id * CALLS_OF_A_WORKER + next(self._numbers))
        self._reserving.append(reservation)
        self._wake()
        try:
            with self._database.watch("reserve"):
                refusal = reservation.outcome.get()
        except BaseException:
            if reservation in self._reserving:
                self._reserving.remove(reservation)
            else:
                # The commit's answer was lost, or nobody waited for it: it may be written.
                self._hand_in(Settling(reservation.id, None))
            raise
        if refusal:
            raise refusal
        self._payers[reservation.id] = call.payer
        return reservation.id

    def settle(self, call_id: int, settlement: Settlement) -> None:
        """Hand in what a call came to; it is written soon, and as often as it takes."""
        self._hand_in(Settling(call_id, settlement))

    # What a worker calls beside its requests.

    def tick(self) -> None:
        """Say that this worker lives, and settle what workers that are gone have left behind.

        Raises StoreUnavailable.
        """
        if self._settling:
            self._wake()
        for worker in self._heartbeats.beat():
            if self._database.write(partial(self._heartbeats.forget, worker)):
                log.warning("Worker %d is gone without a last word", worker)
        while self._database.read(_left_behind) and self._database.write(self._sweep):
            pass

    def close(self) -> None:
        """Write what is left: this worker ends."""
        until = time.monotonic() + LAST_ATTEMPTS
        while self._settling and time.monotonic() < until:
            self._wake()
            gevent.sleep(0.02)
        if self._settling:
            log.error("%d calls are left to be settled at their ceilings", len(self._settling))
        else:
            self._heartbeats.leave()

    def budgets_of(self, payer: Payer) -> list[Budget]:
        """What a payer's budgets stand at. Raises StoreUnavailable."""
        today = _today()
        wanted = [(payer.key_id, period, start) for period, start in starts(today).items()]
        found = self._database.read(lambda connection: _spendings(connection, wanted))
        return _budgets(payer, today, found)

    def budgets_of_all(self, payers: Collection[Payer]) -> dict[int, list[Budget]]:
        """As budgets_of() by key id, with one question."""
        today = _today()
        limited = [payer for payer in payers if payer.has_budget]
        query = select(budgets).where(
            budgets.c.key_id.in_([payer.key_id for payer in limited]),
            tuple_(budgets.c.period, budgets.c.start).in_(list(starts(today).items())),
        )
        rows = self._database.read(lambda connection: connection.execute(query).all())
        found = {
            (row.key_id, row.period, row.start): Spending(row.spent_nano, row.reserved_nano)
            for row in rows
        }
        return {payer.key_id: _budgets(payer, today, found) for payer in limited}

    def spenders(self, count: int) -> list[int]:
        """The ids of the keys that have spent most this month. Raises StoreUnavailable."""
        month = starts(_today())[MONTH]
        query = (
            select(budgets.c.key_id)
            .where(budgets.c.period == MONTH, budgets.c.start == month, budgets.c.spent_nano > 0)
            .order_by(budgets.c.spent_nano.desc())
            .limit(count)
        )
        return list(self._database.read(lambda connection: connection.scalars(query).all()))

    def spent_of(self, key_id: int) -> dict[str, float]:
        """USD that a key has spent, by period. Raises StoreUnavailable."""
        wanted = [(key_id, period, start) for period, start in starts(_today()).items()]
        found = self._database.read(lambda connection: _spendings(connection, wanted))
        return {key[1]: found.get(key, Spending()).spent / money.NANO for key in wanted}

    # The one who writes.

    def _check_price(self, nano: int | None, unpriced: str | None) -> None:
        if nano is None and not self._allow_unpriced:
            raise ModelNotPriced(
                f"Weir knows no price of {unpriced}, and this key has a budget. Set MODEL_PRICES, "
                "or UNPRICED_MODELS=allow."
            )

    def _hand_in(self, settling: Settling) -> None:
        self._settling.append(settling)
        if self._gathering is None:
            self._gathering = gevent.spawn_later(GATHERED_FOR, self._gathered)

    def _gathered(self) -> None:
        self._gathering = None
        self._wake()

    def _wake(self) -> None:
        if self._writer is None:
            self._writer = gevent.spawn(self._write_forever)
        self._handed_in.set()

    def _write_forever(self) -> None:
        while True:
            self._handed_in.wait()
            self._handed_in.clear()
            while self._reserving or self._settling:
                settling = _taken(self._settling)
                reserving = _taken(self._reserving)
                if not self._write(settling, reserving):
                    break  # until the next tick
                if len(reserving) > 1:
                    gevent.sleep(COMPANY_FOR)

    def _write(self, settling: list[Settling], reserving: list[_Reservation]) -> bool:
        """Write a batch; False where the database is away, and settlements wait for it."""
        try:
            outcomes = self._database.write(lambda c: self._apply(c, settling, reserving))
        except StoreUnavailable as away:
            self._settling.extendleft(reversed(settling))
            for reservation in reserving:
                reservation.outcome.set_exception(away)
            return False
        except Exception as error:
            if len(settling) + len(reserving) > 1:
                # One of them is at fault; the others must not suffer.
                return all(
                    [self._write([one], []) for one in settling]
                    + [self._write([], [one]) for one in reserving]
                )
            log.exception("The ledger cannot write %s", settling or reserving)
            for reservation in reserving:
                reservation.outcome.set_exception(error)
            return True
        for reservation, outcome in zip(reserving, outcomes, strict=True):
            reservation.outcome.set(outcome)
        for one in settling:
            self._payers.pop(one.id, None)
        return True

    def _apply(
        self,
        connection: Connection,
        settling: Sequence[Settling],
        reserving: Sequence[_Reservation],
    ) -> list[WeirError | None]:
        """Settle, then reserve, in this transaction: what refuses each reservation, or None."""
        today = _today()
        changes = settle(connection, settling)
        payers = {p.key_id: p for one in settling if (p := self._payers.get(one.id))}
        payers |= {one.call.payer.key_id: one.call.payer for one in reserving}
        limited = {key_id: payer for key_id, payer in payers.items() if payer.has_budget}
        found: dict[Period, Spending] = {}
        if limited:
            found = self._lock(connection, changes, reserving, today, limited)
            changes = defaultdict(Spending)
        outcomes, held = self._reserve(connection, reserving, today, found)
        for period, nano in held.items():
            changes[period].reserved += nano
        _add_spending(connection, changes)
        return outcomes

    def _lock(
        self,
        connection: Connection,
        changes: dict[Period, Spending],
        reserving: Sequence[_Reservation],
        today: date,
        limited: dict[int, Payer],
    ) -> dict[Period, Spending]:
        """Write the changes, lock all budgets of this batch, and say what those stand at now."""
        touched = {
            (one.call.payer.key_id, period, start): Spending()
            for one in reserving
            for period, start in starts(today).items()
        }
        _add_spending(connection, touched | changes)
        found = _spendings(connection, [p for p in touched | changes if p[0] in limited])
        for period, change in changes.items():
            self._note(connection, limited.get(period[0]), period, change, found)
        return found

    def _reserve(
        self,
        connection: Connection,
        reserving: Sequence[_Reservation],
        today: date,
        found: dict[Period, Spending],
    ) -> tuple[list[WeirError | None], Counter[Period]]:
        """What refuses each reservation, or None; and what the others hold now (nano-USD)."""
        outcomes: list[WeirError | None] = []
        rows = []
        held: Counter[Period] = Counter()
        for one in reserving:
            payer, nano = one.call.payer, one.call.nano or 0
            refusal: WeirError | None = None
            for budget in _budgets(payer, today, found):
                refused = budget.refusal(nano, time.time())
                if refusal is None or isinstance(refused, BudgetExceeded):
                    refusal = refused or refusal
                if isinstance(refused, BudgetExceeded):
                    place = (payer.key_id, budget.period, budget.start)
                    spent = (budget.spent, budget.spent, budget.limit)
                    self._alerts.note(connection, *place, *spent, refused=True)
            outcomes.append(refusal)
            if refusal:
                continue
            rows.append(_row(one, today))
            for period, start in starts(today).items():
                key = (payer.key_id, period, start)
                held[key] += nano
                if key in found:
                    found[key].reserved += nano
        if rows:
            connection.execute(_INSERT, rows)
        return outcomes, held

    def _note(
        self,
        connection: Connection,
        payer: Payer | None,
        period: Period,
        change: Spending,
        found: dict[Period, Spending],
    ) -> None:
        limit = dict(limits_of(payer)).get(period[1]) if payer else None
        if limit is not None and change.spent:
            spent = found[period].spent
            self._alerts.note(connection, *period, spent - change.spent, spent, limit)

    def _sweep(self, connection: Connection) -> int:
        """Settle calls of workers that are gone at their ceilings; how many there were."""
        left = select(ledger).where(*_LEFT_BEHIND).order_by(ledger.c.id).limit(SWEPT_AT_ONCE)
        rows = connection.execute(left.with_for_update(skip_locked=True)).all()
        lost = [Settling(row.id, _at_ceiling(row)) for row in rows]
        _add_spending(connection, settle(connection, lost))
        return len(lost)


_LEFT_BEHIND = (
    ledger.c.state == CallState.RESERVED,
    ledger.c.worker_id.not_in(select(workers.c.id)),
)


def _left_behind(connection: Connection) -> bool:
    return connection.execute(select(ledger.c.id).where(*_LEFT_BEHIND).limit(1)).first() is not None


def _at_ceiling(row: Row[Any]) -> Settlement:
    most = Usage(row.ceiling_input_tokens, row.ceiling_output_tokens, estimated=True)
    return Settlement(CallState.LOST, most, row.ceiling_nano, "WorkerLost")


def _taken(waiting: deque[Any]) -> list[Any]:
    return [waiting.popleft() for _ in range(min(BATCH, len(waiting)))]


def _today() -> date:
    return datetime.fromtimestamp(time.time(), UTC).date()


def _budgets(payer: Payer, today: date, found: dict[Period, Spending]) -> list[Budget]:
    standing = []
    for period, limit in limits_of(payer):
        start = starts(today)[period]
        spending = found.get((payer.key_id, period, start), Spending())
        standing.append(Budget(period, start, limit, spending.spent, spending.reserved))
    return standing


def _row(one: _Reservation, today: date) -> dict[str, Any]:
    call = one.call
    return {
        "id": one.id,
        "worker_id": one.id // CALLS_OF_A_WORKER,
        "key_id": call.payer.key_id,
        "request_id": call.payer.request_id,
        "endpoint": call.payer.endpoint,
        "route": call.route,
        "provider": call.provider,
        "model": call.model,
        "attempt": call.attempt,
        "state": CallState.RESERVED,
        "day": today,
        "reserved_at": time.time(),
        "ceiling_nano": call.nano,
        "ceiling_input_tokens": call.input_tokens,
        "ceiling_output_tokens": call.output_tokens,
        **dict.fromkeys(USED, 0),
        "estimated": False,
    }


def _add_spending(connection: Connection, changes: dict[Period, Spending]) -> None:
    rows = [
        dict(zip(("key_id", "period", "start"), key, strict=True))
        | {"spent_nano": change.spent, "reserved_nano": change.reserved}
        for key, change in sorted(changes.items())
    ]
    if rows:
        statement = increment(connection, budgets, ["spent_nano", "reserved_nano"])
        connection.execute(statement, rows)


def _spendings(connection: Connection, wanted: Iterable[Period]) -> dict[Period, Spending]:
    keys = [
        and_(budgets.c.key_id == key_id, budgets.c.period == period, budgets.c.start == start)
        for key_id, period, start in wanted
    ]
    if not keys:
        return {}
    return {
        (row.key_id, row.period, row.start): Spending(row.spent_nano, row.reserved_nano)
        for row in connection.execute(select(budgets).where(or_(*keys)))
    }
