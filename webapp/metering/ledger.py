"""The ledger: a row for each call to a provider, reserved before it is made, settled after it.

One greenlet of each worker writes, with one transaction for everything that is queued, so that a
burst of calls shares its commits. Every transaction locks rows in the same order (ledger, usage,
activity, budgets, each sorted), so that workers cannot deadlock.
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
from webapp.llm.calls import BillingContext, CallState, ProviderCall, Settlement
from webapp.llm.messages import Usage
from webapp.metering.alerts import Alerts
from webapp.metering.budgets import (
    MONTH,
    Budget,
    BudgetKey,
    Spending,
    budgets,
    limits_of,
    starts,
)
from webapp.metering.calls import TOKEN_COLUMNS, ledger
from webapp.metering.heartbeats import Heartbeats, workers
from webapp.metering.settlements import PendingSettlement, settle
from webapp.storage.database import Database, increment

log = logging.getLogger(__name__)

_INSERT = insert(ledger)
MAX_BATCH = 200
SETTLE_BATCH_DELAY = 0.03  # seconds that settlements wait to share a reservation's transaction
# Seconds between transactions while many calls reserve: a transaction costs as much as ten calls.
RESERVE_BATCH_INTERVAL = 0.008
SWEEP_BATCH = 500
CALL_IDS_PER_WORKER = 1 << 32
CLOSE_TIMEOUT = 3.0  # seconds that a worker which ends waits for its settlements


@dataclass(slots=True, eq=False)
class _Reservation:
    """A call that waits to be written. `outcome` becomes None, or the error that refuses it."""

    call: ProviderCall
    id: int
    outcome: AsyncResult = field(default_factory=AsyncResult)


class Ledger:
    """Reserves and settles calls.

    `allow_unpriced` lets keys with a budget call models without a price.
    """

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
        self._settling: deque[PendingSettlement] = deque()
        self._billings: dict[int, BillingContext] = {}
        self._queued = Event()
        self._writer: gevent.Greenlet | None = None
        self._settle_timer: gevent.Greenlet | None = None

    # Called by the gateway.

    def check(self, billing: BillingContext, nano: int | None, unpriced: str | None) -> None:
        """Raise the error of a call that would exceed a budget even without other calls."""
        if not billing.has_budget:
            return
        self._check_price(nano, unpriced)
        for budget in self.budgets_of(billing):
            refusal = budget.refusal(nano or 0, time.time(), alone=True)
            if refusal:
                raise refusal

    def reserve(self, call: ProviderCall) -> int:
        """Write a call at its cost ceiling, and return its id after the commit."""
        if call.billing.has_budget:
            self._check_price(call.nano, call.unpriced)
        worker_id = self._heartbeats.register()
        reservation = _Reservation(call, worker_id * CALL_IDS_PER_WORKER + next(self._numbers))
        self._reserving.append(reservation)
        self._wake()
        try:
            with self._database.instrument("reserve"):
                refusal = reservation.outcome.get()
        except BaseException:
            if reservation in self._reserving:
                self._reserving.remove(reservation)
            else:
                # It may have been written: the commit's result was lost, or the wait was ended.
                self._enqueue(PendingSettlement(reservation.id, None))
            raise
        if refusal:
            raise refusal
        self._billings[reservation.id] = call.billing
        return reservation.id

    def settle(self, call_id: int, settlement: Settlement) -> None:
        """Enqueue the settlement of a call. It is written soon, and retried until it is."""
        self._enqueue(PendingSettlement(call_id, settlement))

    # Called by the worker, outside of requests.

    def tick(self) -> None:
        """Send this worker's heartbeat, and settle the calls of workers that are gone.

        May raise StoreUnavailable.
        """
        if self._settling:
            self._wake()
        for worker in self._heartbeats.beat():
            if self._database.write(partial(self._heartbeats.forget, worker)):
                log.warning("Worker %d ended without a shutdown", worker)
        while self._database.read(_any_orphaned) and self._database.write(self._sweep):
            pass

    def close(self) -> None:
        """Write the remaining settlements before this worker ends."""
        until = time.monotonic() + CLOSE_TIMEOUT
        while self._settling and time.monotonic() < until:
            self._wake()
            gevent.sleep(0.02)
        if self._settling:
            log.error(
                "%d calls could not be settled and will be settled at their cost ceilings",
                len(self._settling),
            )
        else:
            self._heartbeats.leave()

    def budgets_of(self, billing: BillingContext) -> list[Budget]:
        """The budgets of the key that is billed. May raise StoreUnavailable."""
        today = _today()
        wanted = [(billing.key_id, period, start) for period, start in starts(today).items()]
        found = self._database.read(lambda connection: _spendings(connection, wanted))
        return _budgets(billing, today, found)

    def budgets_of_all(self, billings: Collection[BillingContext]) -> dict[int, list[Budget]]:
        """Like budgets_of() by key id, with one query."""
        today = _today()
        limited = [billing for billing in billings if billing.has_budget]
        query = select(budgets).where(
            budgets.c.key_id.in_([billing.key_id for billing in limited]),
            tuple_(budgets.c.period, budgets.c.start).in_(list(starts(today).items())),
        )
        rows = self._database.read(lambda connection: connection.execute(query).all())
        found = {
            (row.key_id, row.period, row.start): Spending(row.spent_nano, row.reserved_nano)
            for row in rows
        }
        return {billing.key_id: _budgets(billing, today, found) for billing in limited}

    def spenders(self, count: int) -> list[int]:
        """The ids of the keys that have spent most this month. May raise StoreUnavailable."""
        month = starts(_today())[MONTH]
        query = (
            select(budgets.c.key_id)
            .where(budgets.c.period == MONTH, budgets.c.start == month, budgets.c.spent_nano > 0)
            .order_by(budgets.c.spent_nano.desc())
            .limit(count)
        )
        return list(self._database.read(lambda connection: connection.scalars(query).all()))

    def spent_of(self, key_id: int) -> dict[str, float]:
        """USD that a key has spent, by period. May raise StoreUnavailable."""
        wanted = [(key_id, period, start) for period, start in starts(_today()).items()]
        found = self._database.read(lambda connection: _spendings(connection, wanted))
        return {key[1]: found.get(key, Spending()).spent / money.NANO for key in wanted}

    def _check_price(self, nano: int | None, unpriced: str | None) -> None:
        if nano is None and not self._allow_unpriced:
            raise ModelNotPriced(
                f"{unpriced}, and this API key has a budget. Set MODEL_PRICES or "
                "UNPRICED_MODELS=allow."
            )

    def _enqueue(self, settlement: PendingSettlement) -> None:
        self._settling.append(settlement)
        if self._settle_timer is None:
            self._settle_timer = gevent.spawn_later(SETTLE_BATCH_DELAY, self._settle_timer_fired)

    def _settle_timer_fired(self) -> None:
        self._settle_timer = None
        self._wake()

    def _wake(self) -> None:
        if self._writer is None:
            self._writer = gevent.spawn(self._write_forever)
        self._queued.set()

    def _write_forever(self) -> None:
        while True:
            self._queued.wait()
            self._queued.clear()
            while self._reserving or self._settling:
                settling = _take_batch(self._settling)
                reserving = _take_batch(self._reserving)
                if not self._write(settling, reserving):
                    break  # until the next tick
                if len(reserving) > 1:
                    gevent.sleep(RESERVE_BATCH_INTERVAL)

    def _write(self, settling: list[PendingSettlement], reserving: list[_Reservation]) -> bool:
        """Write a batch. False if the database is unavailable; the settlements stay queued."""
        try:
            outcomes = self._database.write(lambda c: self._apply(c, settling, reserving))
        except StoreUnavailable as unavailable:
            self._settling.extendleft(reversed(settling))
            for reservation in reserving:
                reservation.outcome.set_exception(unavailable)
            return False
        except Exception as error:
            if len(settling) + len(reserving) > 1:
                # Write them one by one, so that a faulty one does not fail the others.
                return all(
                    [self._write([settlement], []) for settlement in settling]
                    + [self._write([], [reservation]) for reservation in reserving]
                )
            log.exception("The ledger could not write %s", settling or reserving)
            for reservation in reserving:
                reservation.outcome.set_exception(error)
            return True
        for reservation, outcome in zip(reserving, outcomes, strict=True):
            reservation.outcome.set(outcome)
        for settlement in settling:
            self._billings.pop(settlement.id, None)
        return True

    def _apply(
        self,
        connection: Connection,
        settling: Sequence[PendingSettlement],
        reserving: Sequence[_Reservation],
    ) -> list[WeirError | None]:
        """Settle, then reserve. Returns the error that refuses each reservation, or None."""
        today = _today()
        changes = settle(connection, settling)
        known = [self._billings.get(settlement.id) for settlement in settling]
        known += [reservation.call.billing for reservation in reserving]
        billings = {billing.key_id: billing for billing in known if billing}
        limited = {key_id: billing for key_id, billing in billings.items() if billing.has_budget}
        found: dict[BudgetKey, Spending] = {}
        if limited:
            found = self._lock(connection, changes, reserving, today, limited)
            changes = defaultdict(Spending)
        outcomes, reserved = self._reserve(connection, reserving, today, found)
        for key, nano in reserved.items():
            changes[key].reserved += nano
        _add_spending(connection, changes)
        return outcomes

    def _lock(
        self,
        connection: Connection,
        changes: dict[BudgetKey, Spending],
        reserving: Sequence[_Reservation],
        today: date,
        limited: dict[int, BillingContext],
    ) -> dict[BudgetKey, Spending]:
        """Write the changes, lock all budgets of this batch, and return what they are now."""
        touched = {
            (reservation.call.billing.key_id, period, start): Spending()
            for reservation in reserving
            for period, start in starts(today).items()
        }
        _add_spending(connection, touched | changes)
        found = _spendings(connection, [key for key in touched | changes if key[0] in limited])
        for key, change in changes.items():
            self._note_alert(connection, limited.get(key[0]), key, change, found)
        return found

    def _reserve(
        self,
        connection: Connection,
        reserving: Sequence[_Reservation],
        today: date,
        found: dict[BudgetKey, Spending],
    ) -> tuple[list[WeirError | None], Counter[BudgetKey]]:
        """The error of each reservation or None, and what the accepted ones reserve (nano-USD)."""
        outcomes: list[WeirError | None] = []
        rows = []
        reserved: Counter[BudgetKey] = Counter()
        for reservation in reserving:
            billing, nano = reservation.call.billing, reservation.call.nano or 0
            refusal: WeirError | None = None
            for budget in _budgets(billing, today, found):
                refused = budget.refusal(nano, time.time())
                if refusal is None or isinstance(refused, BudgetExceeded):
                    refusal = refused or refusal
                if isinstance(refused, BudgetExceeded):
                    key = (billing.key_id, budget.period, budget.start)
                    amounts = (budget.spent, budget.spent, budget.limit)
                    self._alerts.note(connection, *key, *amounts, refused=True)
            outcomes.append(refusal)
            if refusal:
                continue
            rows.append(_row(reservation, today))
            for period, start in starts(today).items():
                key = (billing.key_id, period, start)
                reserved[key] += nano
                if key in found:
                    found[key].reserved += nano
        if rows:
            connection.execute(_INSERT, rows)
        return outcomes, reserved

    def _note_alert(
        self,
        connection: Connection,
        billing: BillingContext | None,
        key: BudgetKey,
        change: Spending,
        found: dict[BudgetKey, Spending],
    ) -> None:
        limit = dict(limits_of(billing)).get(key[1]) if billing else None
        if limit is not None and change.spent:
            spent = found[key].spent
            self._alerts.note(connection, *key, spent - change.spent, spent, limit)

    def _sweep(self, connection: Connection) -> int:
        """Settle calls of workers that are gone at their cost ceilings. Returns their number."""
        orphaned = select(ledger).where(*_ORPHANED).order_by(ledger.c.id).limit(SWEEP_BATCH)
        rows = connection.execute(orphaned.with_for_update(skip_locked=True)).all()
        lost = [PendingSettlement(row.id, _at_ceiling(row)) for row in rows]
        _add_spending(connection, settle(connection, lost))
        return len(lost)


# Reserved calls of workers that are gone.
_ORPHANED = (
    ledger.c.state == CallState.RESERVED,
    ledger.c.worker_id.not_in(select(workers.c.id)),
)


def _any_orphaned(connection: Connection) -> bool:
    return connection.execute(select(ledger.c.id).where(*_ORPHANED).limit(1)).first() is not None


def _at_ceiling(row: Row[Any]) -> Settlement:
    ceiling = Usage(row.ceiling_input_tokens, row.ceiling_output_tokens, estimated=True)
    return Settlement(CallState.LOST, ceiling, row.ceiling_nano, "WorkerLost")


def _take_batch(waiting: deque[Any]) -> list[Any]:
    return [waiting.popleft() for _ in range(min(MAX_BATCH, len(waiting)))]


def _today() -> date:
    return datetime.fromtimestamp(time.time(), UTC).date()


def _budgets(
    billing: BillingContext, today: date, found: dict[BudgetKey, Spending]
) -> list[Budget]:
    result = []
    for period, limit in limits_of(billing):
        start = starts(today)[period]
        spending = found.get((billing.key_id, period, start), Spending())
        result.append(Budget(period, start, limit, spending.spent, spending.reserved))
    return result


def _row(reservation: _Reservation, today: date) -> dict[str, Any]:
    call = reservation.call
    return {
        "id": reservation.id,
        "worker_id": reservation.id // CALL_IDS_PER_WORKER,
        "key_id": call.billing.key_id,
        "request_id": call.billing.request_id,
        "endpoint": call.billing.endpoint,
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
        **dict.fromkeys(TOKEN_COLUMNS, 0),
        "estimated": False,
    }


def _add_spending(connection: Connection, changes: dict[BudgetKey, Spending]) -> None:
    rows = [
        dict(zip(("key_id", "period", "start"), key, strict=True))
        | {"spent_nano": change.spent, "reserved_nano": change.reserved}
        for key, change in sorted(changes.items())
    ]
    if rows:
        statement = increment(connection, budgets, ["spent_nano", "reserved_nano"])
        connection.execute(statement, rows)


def _spendings(connection: Connection, wanted: Iterable[BudgetKey]) -> dict[BudgetKey, Spending]:
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
