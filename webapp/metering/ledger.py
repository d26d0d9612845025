"""The ledger: a row for each call to a provider, reserved before it is made, settled after it.

One greenlet of each worker writes, with one transaction for everything that is queued, so that a
burst of calls shares its commits. Every transaction locks rows in the same order (ledger, usage,
activity, target_activity, budgets, each sorted), so that workers cannot deadlock.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from functools import partial
from itertools import count
from operator import itemgetter
from typing import Any

import gevent
from gevent.event import AsyncResult, Event
from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    insert,
    select,
    tuple_,
)
from sqlalchemy.exc import DataError, DBAPIError

from webapp import money
from webapp.errors import (
    BudgetExceeded,
    BudgetReserved,
    ModelNotPriced,
    SessionLimitExceeded,
    StoreUnavailable,
    WeirError,
)
from webapp.llm.calls import BillingContext, CallState, ProviderCall, Settlement
from webapp.llm.messages import Usage
from webapp.metering.alerts import Alerts
from webapp.metering.budgets import (
    AMOUNTS,
    MONTH,
    NO_START,
    OF_SESSION,
    Budget,
    BudgetKey,
    HeldBudget,
    Spending,
    budgets,
    keys_of,
    limits_of,
    starts,
)
from webapp.metering.calls import NO_WORKER, TOKEN_COLUMNS, ledger
from webapp.metering.heartbeats import Heartbeats, workers
from webapp.metering.settlements import PendingSettlement, settle
from webapp.storage.database import Database, increment
from webapp.storage.statements import execute_rows

log = logging.getLogger(__name__)

_INSERT = insert(ledger)
MAX_BATCH = 200
SETTLE_BATCH_DELAY = 0.03  # seconds that settlements wait to share a reservation's transaction
# Seconds between transactions while many calls reserve: a transaction costs as much as ten calls.
RESERVE_BATCH_INTERVAL = 0.008
MANY_RESERVATIONS = 5  # in one transaction: with fewer, the others would wait in vain
SWEEP_BATCH = 500
CALL_IDS_PER_WORKER = 1 << 32
CLOSE_TIMEOUT = 3.0  # seconds that a worker which ends waits for its settlements
# Failures of a batch, written one by one, after which the rest waits for the next tick: the
# database refuses more than single calls.
MAX_FAILURES = 3
FAILURE_LOG_INTERVAL = 60.0  # seconds between tracebacks of refused reservations


@dataclass(slots=True, eq=False)
class _Reservation:
    """A call that waits to be written. `outcome` becomes None, or the error that refuses it."""

    call: ProviderCall
    id: int
    worker_id: int
    outcome: AsyncResult = field(default_factory=AsyncResult)


class Ledger:
    """Reserves and settles calls.

    `allow_unpriced` lets keys with a budget call models without a price. `write_results` writes
    what write_result() was given, in the transactions of settlements, after them; where that is
    refused, `without_body` gives what is written in its place. `held_by_batches` says what native
    batches of a key hold of its budgets.
    """

    def __init__(
        self,
        database: Database,
        heartbeats: Heartbeats,
        alerts: Alerts,
        *,
        allow_unpriced: bool,
        write_results: Callable[[Connection, Sequence[Any]], None] = lambda *_: None,
        without_body: Callable[[Any], Any] = lambda _: None,
        held_by_batches: Callable[[Connection, int], HeldBudget | None] = lambda *_: None,
    ) -> None:
        self._database = database
        self._heartbeats = heartbeats
        self._alerts = alerts
        self._allow_unpriced = allow_unpriced
        self._write_results = write_results
        self._without_body = without_body
        self._held_by_batches = held_by_batches
        self._results: deque[Any] = deque()
        self._numbers = count(1)
        self._reserving: deque[_Reservation] = deque()
        self._settling: deque[PendingSettlement] = deque()
        # What the database refused to write: tried again at the next tick.
        self._deferred: deque[PendingSettlement] = deque()
        # Settlements and results of the running transaction.
        self._writing = self._writing_results = 0
        self._refused_at = -FAILURE_LOG_INTERVAL
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
        call_id = worker_id * CALL_IDS_PER_WORKER + next(self._numbers)
        reservation = _Reservation(call, call_id, worker_id)
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

    # Called by batches.

    @property
    def worker_id(self) -> int:
        """This worker's id, under which it is known to be alive. May raise StoreUnavailable."""
        return self._heartbeats.register()

    def write_result(self, result: Any) -> None:
        """Write what became of a call's line together with the settlements that are queued.

        It is written soon, and retried until it is.
        """
        self._results.append(result)
        self._start_settle_timer()

    def call_ids(self, count: int) -> int:
        """The first of so many ids that follow each other. May raise StoreUnavailable."""
        first = self._heartbeats.register() * CALL_IDS_PER_WORKER + next(self._numbers)
        # No other greenlet takes one meanwhile.
        for _ in range(count - 1):
            next(self._numbers)
        return first

    def reserve_all(
        self, calls: Mapping[int, ProviderCall], also: Callable[[Connection], object]
    ) -> None:
        """Write calls by id that no worker waits for, all of them or none, and do `also` after
        them, in one transaction. Raises as reserve(), and what `also` raises."""
        reserving = [_Reservation(call, call_id, NO_WORKER) for call_id, call in calls.items()]
        for call in calls.values():
            if call.billing.has_budget:
                self._check_price(call.nano, call.unpriced)

        def apply(connection: Connection) -> None:
            for refusal in self._apply(connection, [], reserving):
                if refusal:
                    raise refusal  # which undoes all of it
            also(connection)

        self._database.write(apply)

    def settle_at_once(
        self,
        settlements: Mapping[int, tuple[BillingContext, Settlement | None]],
        also: Callable[[Connection], object],
    ) -> None:
        """Settle calls by id, and do `also` after it, in one transaction. Calls that are settled
        already stay as they are; None stands for one that was never made. May raise
        StoreUnavailable."""
        settling = [PendingSettlement(one, after) for one, (_, after) in settlements.items()]
        self._billings.update((one, billing) for one, (billing, _) in settlements.items())

        def apply(connection: Connection) -> None:
            self._apply(connection, settling, [])
            also(connection)

        try:
            self._database.write(apply)
        finally:
            for call_id in settlements:
                self._billings.pop(call_id, None)

    @property
    def unwritten_results(self) -> int:
        return len(self._results) + self._writing_results

    # Called by the worker, outside of requests.

    def tick(self) -> None:
        """Send this worker's heartbeat, and settle the calls of workers that are gone.

        May raise StoreUnavailable.
        """
        self._retry()
        for worker in self._heartbeats.beat():
            if self._database.write(partial(self._heartbeats.forget, worker)):
                log.warning("Worker %d ended without a shutdown", worker)
        while self._database.read(_any_orphaned) and self._database.write(_sweep):
            pass

    def close(self) -> None:
        """Write the remaining settlements before this worker ends."""
        until = time.monotonic() + CLOSE_TIMEOUT
        while (unsettled := self._unsettled) and time.monotonic() < until:
            self._retry()
            gevent.sleep(0.02)
        if unsettled:
            log.error(
                "%d calls could not be settled and will be settled at their cost ceilings",
                unsettled,
            )
        else:
            self._heartbeats.leave()

    def settle_all(self) -> None:
        """Write the settlements of all calls now, and be no worker until the next reservation.

        A process that is frozen sends no heartbeats. Others would take it for gone, and what it
        reserves when it goes on would be settled at its ceiling. May raise StoreUnavailable.
        """
        until = time.monotonic() + CLOSE_TIMEOUT
        while (self._billings or self._unsettled) and time.monotonic() < until:
            self._retry()
            gevent.sleep(0.002)
        if not self._billings and not self._reserving:
            self._heartbeats.leave()

    def budgets_of(self, billing: BillingContext) -> list[Budget]:
        """The budgets of the key that is billed. May raise StoreUnavailable."""
        today = _today()
        return _budgets(billing, today, self._read(_keys_of(billing, today)))

    def budgets_of_all(self, billings: Collection[BillingContext]) -> dict[int, list[Budget]]:
        """Like budgets_of() by key id, with one query."""
        today = _today()
        limited = [billing for billing in billings if billing.has_budget]
        query = select(budgets).where(
            budgets.c.key_id.in_([billing.key_id for billing in limited]),
            tuple_(budgets.c.period, budgets.c.start).in_(list(starts(today).items())),
        )
        found = self._database.read(lambda connection: _spendings(connection.execute(query)))
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
        wanted = keys_of(key_id, _today())
        found = self._read(wanted)
        return {key[1]: found.get(key, Spending()).spent / money.NANO for key in wanted}

    def _read(self, wanted: Sequence[BudgetKey]) -> dict[BudgetKey, Spending]:
        query = select(budgets).where(tuple_(*budgets.primary_key).in_(wanted))
        return self._database.read(lambda connection: _spendings(connection.execute(query)))

    def _check_price(self, nano: int | None, unpriced: str | None) -> None:
        if nano is None and not self._allow_unpriced:
            raise ModelNotPriced(
                f"{unpriced}, and this API key has a budget. Set MODEL_PRICES or "
                "UNPRICED_MODELS=allow."
            )

    def _enqueue(self, settlement: PendingSettlement) -> None:
        self._settling.append(settlement)
        self._start_settle_timer()

    def _start_settle_timer(self) -> None:
        if self._settle_timer is None:
            self._settle_timer = gevent.spawn_later(SETTLE_BATCH_DELAY, self._settle_timer_fired)

    @property
    def _unsettled(self) -> int:
        waiting = len(self._settling) + len(self._deferred) + self._writing
        return waiting + self.unwritten_results

    def _retry(self) -> None:
        self._settling.extend(self._deferred)
        self._deferred.clear()
        if self._settling or self._results:
            self._wake()

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
            while self._reserving or self._settling or self._results:
                settling = _take_batch(self._settling)
                reserving = _take_batch(self._reserving)
                # Only with all settlements before them: a line that has ended has settled calls.
                results = [] if self._settling else _take_batch(self._results)
                self._writing, self._writing_results = len(settling), len(results)
                available = self._write(settling, reserving, results)
                self._writing = self._writing_results = 0
                if not available:
                    break  # until the next tick
                if len(reserving) >= MANY_RESERVATIONS:
                    gevent.sleep(RESERVE_BATCH_INTERVAL)

    def _write(
        self,
        settling: list[PendingSettlement],
        reserving: list[_Reservation],
        results: Sequence[Any] = (),
    ) -> bool:
        """Write a batch. False if the database is unavailable; what is to be settled stays queued,
        and so do the results."""

        def apply(connection: Connection) -> list[WeirError | None]:
            outcomes = self._apply(connection, settling, reserving)
            self._write_results(connection, results)
            return outcomes

        try:
            outcomes = self._database.write(apply)
        except StoreUnavailable as unavailable:
            self._settling.extendleft(reversed(settling))
            self._results.extendleft(reversed(results))
            for reservation in reserving:
                reservation.outcome.set_exception(unavailable)
            return False
        except Exception as error:
            if len(settling) + len(reserving) + len(results) > 1:
                return self._write_one_by_one(settling, reserving, results)
            for pending in settling:
                self._settling_failed(pending, error)
            for reservation in reserving:
                self._reserving_failed(reservation, error)
            for result in results:
                log.exception("The result of a line could not be written")
                if without_body := self._without_body(result):
                    self._results.append(without_body)
            return True
        for reservation, outcome in zip(reserving, outcomes, strict=True):
            reservation.outcome.set(outcome)
        for settlement in settling:
            self._billings.pop(settlement.id, None)
            if settlement.told:
                log.warning("Call %d has been settled now", settlement.id)
        return True

    def _write_one_by_one(
        self,
        settling: list[PendingSettlement],
        reserving: list[_Reservation],
        results: Sequence[Any],
    ) -> bool:
        """Write the calls of a failed batch, so that a faulty one does not fail the others."""
        available = True
        deferred = len(self._deferred)
        for tried, pending in enumerate(settling):
            if len(self._deferred) - deferred >= MAX_FAILURES:
                self._deferred.extendleft(reversed(settling[tried:]))
                break
            if not self._write([pending], []):
                self._settling.extend(settling[tried + 1 :])
                available = False
                break
        for reservation in reserving:
            available = self._write([], [reservation]) and available
        for result in results:
            available = self._write([], [], [result]) and available
        return available

    def _settling_failed(self, pending: PendingSettlement, error: Exception) -> None:
        """Defer a settlement, or book its call at the ceiling if no other try can write it."""
        if pending.settlement is None or _may_be_mended(error):
            if not pending.told:
                cause = getattr(error, "orig", None) or error
                log.error("Call %d is not settled yet, it is tried again: %s", pending.id, cause)
        else:
            if not pending.told:
                log.exception("Call %d cannot be settled, it is booked at its ceiling", pending.id)
            this = (ledger.c.id == pending.id, ledger.c.state == CallState.RESERVED)
            with contextlib.suppress(Exception):  # then it is tried again; the writer must not end
                self._database.write(lambda c: _settle_at_ceilings(c, "InternalError", *this))
                self._billings.pop(pending.id, None)
                return
        pending.told = True
        self._deferred.append(pending)

    def _reserving_failed(self, reservation: _Reservation, error: Exception) -> None:
        now = time.monotonic()
        if now - self._refused_at > FAILURE_LOG_INTERVAL:
            self._refused_at = now
            log.exception("The ledger could not write %s", reservation)
        if _may_be_mended(error):
            reservation.outcome.set(StoreUnavailable())  # rolled back: there is no row to delete
        else:
            reservation.outcome.set_exception(error)

    def _apply(
        self,
        connection: Connection,
        settling: Sequence[PendingSettlement],
        reserving: Sequence[_Reservation],
    ) -> list[WeirError | None]:
        """Settle, then reserve. Returns the error that refuses each reservation, or None."""
        today = _today()
        changes = settle(connection, settling)
        spent = {key: change.spent for key, change in changes.items()}
        ceilings = _ceilings(reserving, today)
        for key, nano in ceilings.items():
            changes[key].reserved += nano
        known = [self._billings.get(settlement.id) for settlement in settling]
        known += [reservation.call.billing for reservation in reserving]
        limited = {b.key_id: b for b in known if b and b.has_budget}
        if not limited:
            _add_spending(connection, changes)
            return self._reserve(connection, reserving, today, {})
        # This locks the budgets. What the refused ones reserve is taken back before the commit.
        found = _add_and_read_spending(connection, changes)
        for key, nano in ceilings.items():
            found[key].reserved -= nano
        for key, nano in spent.items():
            self._note_alert(connection, limited.get(key[0]), key, nano, found[key])
        outcomes = self._reserve(connection, reserving, today, found)
        refused = [one for one, refusal in zip(reserving, outcomes, strict=True) if refusal]
        taken_back = _ceilings(refused, today).items()
        _add_spending(connection, {key: Spending(reserved=-nano) for key, nano in taken_back})
        return outcomes

    def _reserve(
        self,
        connection: Connection,
        reserving: Sequence[_Reservation],
        today: date,
        found: dict[BudgetKey, Spending],
    ) -> list[WeirError | None]:
        """Write the rows of what the budgets allow. Returns the error of each call, or None."""
        outcomes: list[WeirError | None] = []
        rows = []
        for reservation in reserving:
            billing, nano = reservation.call.billing, reservation.call.nano or 0
            refusal: WeirError | None = None
            for budget in _budgets(billing, today, found):
                refused = budget.refusal(nano, time.time())
                if isinstance(refused, BudgetReserved) and budget.session is None:
                    held = self._held_by_batches(connection, billing.key_id)
                    longer = held and budget.refusal_while_held(nano, time.time(), held)
                    refused = longer or refused
                if refusal is None or isinstance(refused, BudgetExceeded | SessionLimitExceeded):
                    refusal = refused or refusal
                if isinstance(refused, BudgetExceeded) and budget.of_key:
                    key = (billing.key_id, budget.period, budget.start)
                    amounts = (budget.spent, budget.spent, budget.limit)
                    self._alerts.note(connection, *key, *amounts, refused=True)
            outcomes.append(refusal)
            if refusal:
                continue
            rows.append(_row(reservation, today))
            for key in _keys_of(billing, today):
                if key in found:
                    found[key].reserved += nano
        if rows:
            execute_rows(connection, _INSERT, rows)
        return outcomes

    def _note_alert(
        self,
        connection: Connection,
        billing: BillingContext | None,
        key: BudgetKey,
        nano: int,
        found: Spending,
    ) -> None:
        limit = dict(limits_of(billing)).get(key[1]) if billing else None
        if limit is not None and nano:
            self._alerts.note(connection, *key, found.spent - nano, found.spent, limit)


# Reserved calls of workers that are gone.
_ORPHANED = (
    ledger.c.state == CallState.RESERVED,
    ledger.c.worker_id != NO_WORKER,
    ledger.c.worker_id.not_in(select(workers.c.id)),
)


def _any_orphaned(connection: Connection) -> bool:
    return connection.execute(select(ledger.c.id).where(*_ORPHANED).limit(1)).first() is not None


def _sweep(connection: Connection) -> int:
    return _settle_at_ceilings(connection, "WorkerLost", *_ORPHANED)


def _settle_at_ceilings(connection: Connection, error: str, *which: ColumnElement[bool]) -> int:
    """Settle reserved calls at their cost ceilings. Returns their number."""
    query = select(ledger).where(*which).order_by(ledger.c.id).limit(SWEEP_BATCH)
    rows = connection.execute(query.with_for_update(skip_locked=True)).all()
    lost = [PendingSettlement(row.id, _at_ceiling(row, error)) for row in rows]
    _add_spending(connection, settle(connection, lost))
    return len(lost)


def _at_ceiling(row: Row[Any], error: str) -> Settlement:
    ceiling = Usage(row.ceiling_input_tokens, row.ceiling_output_tokens, estimated=True)
    return Settlement(CallState.LOST, ceiling, row.ceiling_nano, error)


def _may_be_mended(error: Exception) -> bool:
    """Whether the same statement may succeed later: not if its own values are at fault."""
    return isinstance(error, DBAPIError) and not isinstance(error, DataError)


def _take_batch(waiting: deque[Any]) -> list[Any]:
    return [waiting.popleft() for _ in range(min(MAX_BATCH, len(waiting)))]


def _today() -> date:
    return datetime.fromtimestamp(time.time(), UTC).date()


def _keys_of(billing: BillingContext, today: date) -> Sequence[BudgetKey]:
    batch_id = billing.batch.batch_id if billing.batch else None
    return keys_of(billing.key_id, today, batch_id, billing.session and billing.session.id)


def _budgets(
    billing: BillingContext, today: date, found: dict[BudgetKey, Spending]
) -> list[Budget]:
    limits = [(period, starts(today)[period], limit) for period, limit in limits_of(billing)]
    if billing.batch and billing.batch.cap_nano is not None:
        limits.append((billing.batch.batch_id, NO_START, billing.batch.cap_nano))
    result = []
    for period, start, limit in limits:
        spending = found.get((billing.key_id, period, start), Spending())
        result.append(Budget(period, start, limit, spending.spent, spending.reserved))
    if session := billing.session:
        spending = found.get((billing.key_id, session.id, OF_SESSION), Spending())
        spent, reserved = spending.spent, spending.reserved
        budget = Budget(session.id, OF_SESSION, session.limit_nano, spent, reserved, session.label)
        result.append(budget)
    return result


def _row(reservation: _Reservation, today: date) -> dict[str, Any]:
    call = reservation.call
    return {
        "id": reservation.id,
        "worker_id": reservation.worker_id,
        "key_id": call.billing.key_id,
        "request_id": call.billing.request_id,
        "endpoint": call.billing.endpoint,
        "route": call.route,
        "provider": call.provider,
        "model": call.model,
        "attempt": call.attempt,
        "batch_id": call.billing.batch and call.billing.batch.batch_id,
        "batch_line": call.billing.batch and call.billing.batch.number,
        "session_id": call.billing.session and call.billing.session.id,
        "state": CallState.RESERVED,
        "day": today,
        "reserved_at": time.time(),
        "ceiling_nano": call.nano,
        "ceiling_input_tokens": call.input_tokens,
        "ceiling_output_tokens": call.output_tokens,
        **dict.fromkeys(TOKEN_COLUMNS, 0),
        "estimated": False,
    }


def _ceilings(reserving: Sequence[_Reservation], today: date) -> dict[BudgetKey, int]:
    """What these calls reserve (nano-USD) of each budget. Even of a full batch, a column holds it:
    a ceiling is at most MAX_NANO."""
    result: Counter[BudgetKey] = Counter()
    for reservation in reserving:
        for key in _keys_of(reservation.call.billing, today):
            result[key] += reservation.call.nano or 0
    return result


def _add_spending(connection: Connection, changes: dict[BudgetKey, Spending]) -> None:
    if changes:
        statement = increment(connection, budgets, AMOUNTS)
        execute_rows(connection, statement, _spending_rows(changes))


def _add_and_read_spending(
    connection: Connection, changes: dict[BudgetKey, Spending]
) -> dict[BudgetKey, Spending]:
    """Returns the amounts as they are with these changes."""
    if not changes:
        return {}
    statement = increment(connection, budgets, AMOUNTS, returning=True)
    return _spendings(connection.execute(statement, _spending_rows(changes)))


def _spending_rows(changes: dict[BudgetKey, Spending]) -> list[dict[str, Any]]:
    return [
        {
            "key_id": key_id,
            "period": period,
            "start": start,
            "spent_nano": change.spent,
            "reserved_nano": change.reserved,
        }
        for (key_id, period, start), change in sorted(changes.items(), key=itemgetter(0))
    ]


def _spendings(rows: Iterable[Any]) -> dict[BudgetKey, Spending]:
    """What was read from the table of budgets."""
    return {
        (key_id, period, start): Spending(spent, reserved)
        for key_id, period, start, spent, reserved in rows
    }
