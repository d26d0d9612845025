"""Settlement: updates rows of the ledger, and with them usage, activity and budgets.

The tables are written in the order of the ledger's transactions (see there), each sorted.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import add, attrgetter, sub
from typing import Any

from sqlalchemy import Connection, Row, bindparam, select

from webapp.llm.calls import CallState, Settlement
from webapp.metering import activity, target_activity
from webapp.metering.activity import DAY
from webapp.metering.budgets import BudgetKey, Spending, keys_of
from webapp.metering.calls import NO_WORKER, TOKEN_COLUMNS, ledger
from webapp.metering.ranges import unix_of
from webapp.metering.rollups import forget_late
from webapp.metering.usage import usage
from webapp.storage.database import increment
from webapp.storage.statements import execute_rows


@dataclass(slots=True)
class PendingSettlement:
    """The settlement of a row. None deletes the row, as no provider was called.

    `told`: the log says that it could not be written yet. `at` is when the call ended (Unix
    seconds): it is written some time later.
    """

    id: int
    settlement: Settlement | None
    told: bool = False
    at: float = field(default_factory=time.time)


def settle(
    connection: Connection, settling: Sequence[PendingSettlement]
) -> defaultdict[BudgetKey, Spending]:
    """Write settlements and add them to the usage. Returns the changes to the budgets."""
    changes: defaultdict[BudgetKey, Spending] = defaultdict(Spending)
    if not settling:
        return changes
    ids = {"ids": [pending.id for pending in settling]}
    rows = {row.id: row for row in connection.execute(_LOCKED, ids)}
    updates, never_called = [], []
    used: _Used = {}
    for pending in settling:
        row = rows.pop(pending.id, None)
        if row is None or row.state not in {CallState.RESERVED, CallState.LOST}:
            continue  # never written, or already settled by an attempt whose result was lost
        after = pending.settlement
        if after is None:
            never_called.append(row.id)
        else:
            updates.append(_columns(pending, after))
        _change(changes, used, row, after)
    if never_called:
        connection.execute(ledger.delete().where(ledger.c.id.in_(never_called)))
    if updates:
        execute_rows(connection, _UPDATE, updates)
    _add_usage(connection, used)
    return changes


def _change(
    changes: dict[BudgetKey, Spending], used: _Used, row: Row[Any], after: Settlement | None
) -> None:
    """Add to budgets and usage the difference between a row before and after its settlement."""
    was_lost = row.state == CallState.LOST
    for budget in keys_of(row.key_id, row.day, row.batch_id, row.session_id):
        spending = changes[budget]
        # Only a version that knows no batches takes a call for lost that no worker waits for. It
        # has left the batch's own budget as it was.
        still_reserved = row.worker_id == NO_WORKER and budget[1] == row.batch_id
        if was_lost and not still_reserved:
            spending.spent -= row.cost_nano or 0
        else:
            spending.reserved -= row.ceiling_nano or 0
        spending.spent += (after.nano or 0) if after else 0
    key = (row.day, row.key_id, row.provider, row.model, row.endpoint)
    counted = used.get(key, _NOTHING)
    if was_lost:
        counted = tuple(map(sub, counted, _usage_counters(CallState.LOST, row, row.cost_nano)))
    if after:
        counted = tuple(map(add, counted, _usage_counters(after.state, after.usage, after.nano)))
    used[key] = counted


def _usage_counters(state: CallState, used: Any, nano: int | None) -> tuple[int, ...]:
    """What a call adds to the columns of COUNTERS. `used` is a Usage or a row of the ledger."""
    failed, unpriced = int(state is CallState.FAILED), int(nano is None)
    return 1, failed, int(used.estimated), unpriced, *_tokens(used), nano or 0


def _columns(pending: PendingSettlement, after: Settlement) -> dict[str, Any]:
    return {
        "call_id": pending.id,
        "state": after.state,
        "error": after.error,
        "settled_at": pending.at,
        "cost_nano": after.nano,
        **dict(zip(TOKEN_COLUMNS, _tokens(after.usage), strict=True)),
        "estimated": after.usage.estimated,
        "answered_model": after.model,
        "service_tier": after.usage.service_tier,
        "provider_status": after.provider_status,
        "provider_message": after.provider_message,
    }


_tokens = attrgetter(*TOKEN_COLUMNS)
# What was used, in the order of COUNTERS, by the primary key of the usage table.
_Used = dict[tuple[Any, ...], tuple[int, ...]]
COUNTERS = ("calls", "failed", "estimated", "unpriced", *TOKEN_COLUMNS, "cost_nano")
_NOTHING = (0,) * len(COUNTERS)
_READ = (
    "id", "worker_id", "state", "day", "key_id", "provider", "model", "endpoint", "ceiling_nano",
    "batch_id", "session_id",
)  # fmt: skip
_BOOKED = (*TOKEN_COLUMNS, "cost_nano", "estimated")
_LOCKED = (
    select(*(ledger.c[name] for name in (*_READ, *_BOOKED)))
    .where(ledger.c.id.in_(bindparam("ids", expanding=True)))
    .order_by(ledger.c.id)
    .with_for_update()
)
_UPDATE = ledger.update().where(ledger.c.id == bindparam("call_id"))


def _add_usage(connection: Connection, used: _Used) -> None:
    names = [*usage.primary_key.columns.keys(), *COUNTERS]
    rows = [dict(zip(names, key + counted, strict=True)) for key, counted in sorted(used.items())]
    if rows:
        forget_late(connection, {(DAY, unix_of(day)) for day, *_ in used})
        execute_rows(connection, increment(connection, usage, COUNTERS), rows)
        _add_activity(connection, rows)
        target_activity.add_calls(connection, rows)


def _add_activity(connection: Connection, rows: list[dict[str, Any]]) -> None:
    """Add billed tokens and cost to the current minute, not to that of the reservation."""
    minute = activity.this_minute()
    billed: defaultdict[int, Counter[str]] = defaultdict(Counter)
    for row in rows:
        tokens = row["input_tokens"] + row["output_tokens"]
        billed[row["key_id"]].update(tokens=tokens, cost_nano=row["cost_nano"])
    activity.add(connection, ((minute, key_id, sums) for key_id, sums in billed.items()))
