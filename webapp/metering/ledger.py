"""The ledger: a row for each call to a provider, reserved before it is made, settled after it.

One greenlet of each worker writes: what has gathered meanwhile goes into one transaction, so that
a burst of calls shares its commits. A transaction locks rows in one order (ledger, budgets, usage),
each sorted, so that workers do not wait for each other in a circle.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, defaultdict, deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from functools import partial
from itertools import count
from typing import Any

import gevent
from gevent.event import AsyncResult, Event
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Date,
    Float,
    Integer,
    Row,
    RowMapping,
    String,
    Table,
    and_,
    bindparam,
    func,
    insert,
    or_,
    select,
    tuple_,
)

from webapp import money
from webapp.errors import BudgetExceeded, ModelNotPriced, StoreUnavailable, WeirError
from webapp.llm.messages import Usage
from webapp.llm.ports import Call, CallState, Payer, Settlement
from webapp.metering import activity
from webapp.metering.alerts import Alerts
from webapp.metering.budgets import Budget, Period, Spending, budgets, limits_of, starts
from webapp.metering.heartbeats import Heartbeats, workers
from webapp.metering.usage import usage
from webapp.storage.database import Database, increment, metadata

log = logging.getLogger(__name__)

ledger = Table(
    "ledger",
    metadata,
    # The worker's id and a number that it counts up: known before the row is written.
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("worker_id", Integer, nullable=False),
    Column("key_id", Integer, nullable=False),
    Column("request_id", String(128), nullable=False),
    Column("endpoint", String(64), nullable=False),
    Column("route", String(240), nullable=False),
    Column("provider", String(32), nullable=False),
    Column("model", String(200), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("state", String(10), nullable=False),
    Column("error", String(40)),
    # The UTC day whose budgets it belongs to, and Unix seconds.
    Column("day", Date, nullable=False),
    Column("reserved_at", Float, nullable=False),
    Column("settled_at", Float),
    Column("ceiling_nano", BigInteger),
    Column("ceiling_input_tokens", BigInteger, nullable=False),
    Column("ceiling_output_tokens", BigInteger, nullable=False),
    Column("cost_nano", BigInteger),
    Column("input_tokens", BigInteger, nullable=False),
    Column("cached_input_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("estimated", Boolean, nullable=False),
)

BATCH = 200
GATHERED_FOR = 0.03  # seconds that settlements may wait for a reservation to go along with
COMPANY_FOR = 0.008  # seconds between two transactions while many reserve: each costs as ten calls
SWEPT_AT_ONCE = 500
FORGOTTEN_AT_ONCE = 1_000
FORGET_EVERY = 600.0  # seconds
PAGE = 1_000
DRIFT_KEPT = 60.0  # seconds
CALLS_OF_A_WORKER = 1 << 32
LAST_ATTEMPTS = 3.0  # seconds that a worker which ends tries to write what is left
USED = ("input_tokens", "cached_input_tokens", "output_tokens")


@dataclass(slots=True, eq=False)
class _Reservation:
    """A call that waits to be written; `outcome` is None, or what refuses it."""

    call: Call
    id: int
    outcome: AsyncResult = field(default_factory=AsyncResult)


@dataclass(slots=True)
class _Settling:
    """What a row shall become; without a settlement it shall go, as nothing was called."""

    id: int
    settlement: Settlement | None


class Ledger:
    """Reserves and settles calls, and tells of them.

    `allow_unpriced` lets budgets pass models without a price. Rows are kept for `keep_days`; 0: for
    ever.
    """

    def __init__(
        self,
        database: Database,
        heartbeats: Heartbeats,
        alerts: Alerts,
        *,
        allow_unpriced: bool,
        keep_days: int,
    ) -> None:
        self._database = database
        self._heartbeats = heartbeats
        self._alerts = alerts
        self._allow_unpriced = allow_unpriced
        self._keep_days = keep_days
        self._forget_at = 0.0
        self._drift, self._drift_until = 0, 0.0
        self._numbers = count(1)
        self._reserving: deque[_Reservation] = deque()
        self._settling: deque[_Settling] = deque()
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
            refusal = reservation.outcome.get()
        except BaseException:
            if reservation in self._reserving:
                self._reserving.remove(reservation)
            else:
                # The commit's answer was lost, or nobody waited for it: it may be written.
                self._hand_in(_Settling(reservation.id, None))
            raise
        if refusal:
            raise refusal
        self._payers[reservation.id] = call.payer
        return reservation.id

    def settle(self, call_id: int, settlement: Settlement) -> None:
        """Hand in what a call came to; it is written soon, and as often as it takes."""
        self._hand_in(_Settling(call_id, settlement))

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

    def spent_of(self, key_id: int) -> dict[str, float]:
        """USD that a key has spent, by period. Raises StoreUnavailable."""
        wanted = [(key_id, period, start) for period, start in starts(_today()).items()]
        found = self._database.read(lambda connection: _spendings(connection, wanted))
        return {key[1]: found.get(key, Spending()).spent / money.NANO for key in wanted}

    def calls(
        self,
        *,
        request_id: str | None = None,
        key_id: int | None = None,
        before: float | None = None,
        count: int = 100,
    ) -> list[dict[str, Any]]:
        """The newest calls; of a request or a key, or reserved before a moment (Unix seconds)."""
        query = select(ledger).order_by(ledger.c.reserved_at.desc()).limit(count)
        if request_id is not None:
            query = query.where(ledger.c.request_id == request_id)
        if key_id is not None:
            query = query.where(ledger.c.key_id == key_id)
        if before is not None:
            query = query.where(ledger.c.reserved_at < before)
        rows = self._database.read(partial(_rows, query))
        return [_shown(row) for row in rows]

    def mean_milliseconds(self) -> dict[tuple[str, str], float]:
        """What the latest calls that came to a good end took, by (provider, model)."""
        latest = (
            select(ledger.c.provider, ledger.c.model, ledger.c.reserved_at, ledger.c.settled_at)
            .where(ledger.c.state == CallState.SETTLED)
            .order_by(ledger.c.reserved_at.desc())
            .limit(PAGE)
            .subquery()
        )
        took = func.avg(latest.c.settled_at - latest.c.reserved_at) * 1000
        query = select(latest.c.provider, latest.c.model, took.label("took"))
        query = query.group_by(latest.c.provider, latest.c.model)
        rows = self._database.read(lambda connection: connection.execute(query).all())
        return {(row.provider, row.model): float(row.took) for row in rows}

    def all_calls(self, since: date, until: date) -> Iterator[dict[str, Any]]:
        """Every call of these days (UTC, both included), the oldest first, page by page."""
        # Days are not indexed, moments are; a clock may have been set in between.
        after = _unix(since) - 86_400.0, 0
        while True:
            place = tuple_(ledger.c.reserved_at, ledger.c.id)
            query = (
                select(ledger)
                .where(
                    ledger.c.day.between(since, until),
                    place > tuple_(*after),
                    ledger.c.reserved_at < _unix(until) + 2 * 86_400.0,
                )
                .order_by(ledger.c.reserved_at, ledger.c.id)
                .limit(PAGE)
            )
            rows = self._database.read(partial(_rows, query))
            yield from map(_shown, rows)
            if len(rows) < PAGE:
                return
            after = rows[-1]["reserved_at"], rows[-1]["id"]

    def forget(self) -> None:
        """Delete a batch of the rows that have been kept long enough; the usage stays.

        Raises StoreUnavailable.
        """
        if not self._keep_days or time.monotonic() < self._forget_at:
            return
        oldest = time.time() - self._keep_days * 86_400
        old = (
            select(ledger.c.id)
            .where(ledger.c.reserved_at < oldest, ledger.c.state != CallState.RESERVED)
            .limit(FORGOTTEN_AT_ONCE)
        )
        delete = ledger.delete().where(ledger.c.id.in_(old))
        gone = self._database.write(lambda connection: connection.execute(delete).rowcount)
        if gone < FORGOTTEN_AT_ONCE:
            self._forget_at = time.monotonic() + FORGET_EVERY

    def drift(self) -> int:
        """Nano-USD by which the budgets of this month differ from the ledger's rows; 0 is right.

        Kept for a minute, as it reads all rows of the month. Raises StoreUnavailable.
        """
        if time.monotonic() >= self._drift_until:
            self._drift = self._database.read(_drift)
            self._drift_until = time.monotonic() + DRIFT_KEPT
        return self._drift

    # The one who writes.

    def _check_price(self, nano: int | None, unpriced: str | None) -> None:
        if nano is None and not self._allow_unpriced:
            raise ModelNotPriced(
                f"Weir knows no price of {unpriced}, and this key has a budget. Set MODEL_PRICES, "
                "or UNPRICED_MODELS=allow."
            )

    def _hand_in(self, settling: _Settling) -> None:
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

    def _write(self, settling: list[_Settling], reserving: list[_Reservation]) -> bool:
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
        settling: Sequence[_Settling],
        reserving: Sequence[_Reservation],
    ) -> list[WeirError | None]:
        """Settle, then reserve, in this transaction: what refuses each reservation, or None."""
        today = _today()
        changes = _settle(connection, settling)
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
        lost = [_Settling(row.id, _at_ceiling(row)) for row in rows]
        _add_spending(connection, _settle(connection, lost))
        return len(lost)


_LEFT_BEHIND = (
    ledger.c.state == CallState.RESERVED,
    ledger.c.worker_id.not_in(select(workers.c.id)),
)


def _left_behind(connection: Connection) -> bool:
    return connection.execute(select(ledger.c.id).where(*_LEFT_BEHIND).limit(1)).first() is not None


def _rows(query: Any, connection: Connection) -> Sequence[RowMapping]:
    return connection.execute(query).mappings().all()


def _shown(row: RowMapping) -> dict[str, Any]:
    """A row for a reader: USD, and moments in ISO 8601."""
    shown = {name: value for name, value in row.items() if name != "worker_id"}
    shown["day"] = row["day"].isoformat()
    for name in ("reserved_at", "settled_at"):
        moment = shown[name]
        shown[name] = moment and datetime.fromtimestamp(moment, UTC).isoformat()
    for name in ("ceiling", "cost"):
        shown[f"{name}_usd"] = money.to_usd(shown.pop(f"{name}_nano"))
    return shown


def _at_ceiling(row: Row[Any]) -> Settlement:
    most = Usage(row.ceiling_input_tokens, row.ceiling_output_tokens, estimated=True)
    return Settlement(CallState.LOST, most, row.ceiling_nano, "WorkerLost")


def _taken(waiting: deque[Any]) -> list[Any]:
    return [waiting.popleft() for _ in range(min(BATCH, len(waiting)))]


def _unix(day: date) -> float:
    return datetime.combine(day, datetime.min.time(), UTC).timestamp()


def _today() -> date:
    return datetime.fromtimestamp(time.time(), UTC).date()


# -- settling --


def _settle(connection: Connection, settling: Sequence[_Settling]) -> defaultdict[Period, Spending]:
    """Write what rows have become, and add it to the usage; what that changes of the budgets."""
    changes: defaultdict[Period, Spending] = defaultdict(Spending)
    if not settling:
        return changes
    ids = {"ids": [one.id for one in settling]}
    rows = {row.id: row for row in connection.execute(_LOCKED, ids)}
    updates, never_called = [], []
    used: defaultdict[tuple[Any, ...], Counter[str]] = defaultdict(Counter)
    for one in settling:
        row = rows.pop(one.id, None)
        if row is None or row.state not in {CallState.RESERVED, CallState.LOST}:
            continue  # never written, or settled already: an answer was lost on the way
        after = one.settlement
        if after is None:
            never_called.append(row.id)
        else:
            updates.append(_columns(row.id, after))
        _change(changes, used, row, after)
    if never_called:
        connection.execute(ledger.delete().where(ledger.c.id.in_(never_called)))
    if updates:
        connection.execute(_UPDATE, updates)
    _add_usage(connection, used)
    return changes


def _change(
    changes: dict[Period, Spending],
    used: dict[tuple[Any, ...], Counter[str]],
    row: Row[Any],
    after: Settlement | None,
) -> None:
    """Add to budgets and usage what a row becomes, less what it was."""
    was_lost = row.state == CallState.LOST
    for period, start in starts(row.day).items():
        spending = changes[row.key_id, period, start]
        if was_lost:
            spending.spent -= row.cost_nano or 0
        else:
            spending.reserved -= row.ceiling_nano or 0
        spending.spent += (after.nano or 0) if after else 0
    counted = used[row.day, row.key_id, row.provider, row.model, row.endpoint]
    if was_lost:
        counted.subtract(_facts(CallState.LOST, row, row.cost_nano))
    if after:
        counted.update(_facts(after.state, after.usage, after.nano))


def _facts(state: CallState, used: Any, nano: int | None) -> dict[str, int]:
    """What a call adds to the usage; `used` has tokens and whether they are estimated."""
    return {
        "calls": 1,
        "failed": int(state is CallState.FAILED),
        "estimated": int(used.estimated),
        "unpriced": int(nano is None),
        **{name: getattr(used, name) for name in USED},
        "cost_nano": nano or 0,
    }


def _columns(call_id: int, after: Settlement) -> dict[str, Any]:
    return {
        "call_id": call_id,
        "state": after.state,
        "error": after.error,
        "settled_at": time.time(),
        "cost_nano": after.nano,
        **{name: getattr(after.usage, name) for name in USED},
        "estimated": after.usage.estimated,
    }


_LOCKED = (
    select(ledger)
    .where(ledger.c.id.in_(bindparam("ids", expanding=True)))
    .order_by(ledger.c.id)
    .with_for_update()
)
_INSERT = insert(ledger)
_UPDATE = ledger.update().where(ledger.c.id == bindparam("call_id"))


def _add_usage(connection: Connection, used: dict[tuple[Any, ...], Counter[str]]) -> None:
    names = [column.name for column in usage.primary_key.columns]
    rows = [dict(zip(names, key, strict=True)) | counted for key, counted in sorted(used.items())]
    counters = [column.name for column in usage.columns if not column.primary_key]
    if rows:
        connection.execute(increment(connection, usage, counters), rows)
        _add_activity(connection, used)


def _add_activity(connection: Connection, used: dict[tuple[Any, ...], Counter[str]]) -> None:
    """Add what was bought to this minute, whenever it was reserved."""
    minute = activity.this_minute()
    bought: defaultdict[int, Counter[str]] = defaultdict(Counter)
    for (_, key_id, *_), counted in used.items():
        tokens = counted["input_tokens"] + counted["output_tokens"]
        bought[key_id].update(tokens=tokens, cost_nano=counted["cost_nano"])
    activity.add(connection, ((minute, key_id, sums) for key_id, sums in bought.items()))


# -- reserving --


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


def _drift(connection: Connection) -> int:
    """Compares this month's budgets, key by key, with the sums of the ledger's rows."""
    month = starts(_today())["month"]
    settled = ledger.c.state != CallState.RESERVED
    rows = (
        select(
            ledger.c.key_id,
            func.coalesce(func.sum(ledger.c.cost_nano).filter(settled), 0),
            func.coalesce(func.sum(ledger.c.ceiling_nano).filter(~settled), 0),
        )
        .where(ledger.c.day >= month, ledger.c.reserved_at > _unix(month) - 86_400.0)
        .group_by(ledger.c.key_id)
    )
    kept = select(budgets.c.key_id, budgets.c.spent_nano, budgets.c.reserved_nano).where(
        budgets.c.period == "month", budgets.c.start == month
    )
    of_rows = {key: (int(spent), int(held)) for key, spent, held in connection.execute(rows)}
    of_budgets = {key: (spent, held) for key, spent, held in connection.execute(kept)}
    return sum(
        abs(a - b)
        for key in of_rows.keys() | of_budgets.keys()
        for a, b in zip(of_rows.get(key, (0, 0)), of_budgets.get(key, (0, 0)), strict=True)
    )
