"""Settlement: updates rows of the ledger, and with them usage, activity and budgets."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, bindparam, select

from webapp.llm.calls import CallState, Settlement
from webapp.metering import activity
from webapp.metering.budgets import BudgetKey, Spending, starts
from webapp.metering.calls import TOKEN_COLUMNS, ledger
from webapp.metering.usage import usage
from webapp.storage.database import increment
from webapp.storage.statements import execute_rows


@dataclass(slots=True)
class PendingSettlement:
    """The settlement of a row. None deletes the row, as no provider was called.

    `told`: the log says that it could not be written yet.
    """

    id: int
    settlement: Settlement | None
    told: bool = False


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
    used: defaultdict[tuple[Any, ...], Counter[str]] = defaultdict(Counter)
    for pending in settling:
        row = rows.pop(pending.id, None)
        if row is None or row.state not in {CallState.RESERVED, CallState.LOST}:
            continue  # never written, or already settled by an attempt whose result was lost
        after = pending.settlement
        if after is None:
            never_called.append(row.id)
        else:
            updates.append(_columns(row.id, after))
        _change(changes, used, row, after)
    if never_called:
        connection.execute(ledger.delete().where(ledger.c.id.in_(never_called)))
    if updates:
        execute_rows(connection, _UPDATE, updates)
    _add_usage(connection, used)
    return changes


def _change(
    changes: dict[BudgetKey, Spending],
    used: dict[tuple[Any, ...], Counter[str]],
    row: Row[Any],
    after: Settlement | None,
) -> None:
    """Add to budgets and usage the difference between a row before and after its settlement."""
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
        counted.subtract(_usage_counters(CallState.LOST, row, row.cost_nano))
    if after:
        counted.update(_usage_counters(after.state, after.usage, after.nano))


def _usage_counters(state: CallState, used: Any, nano: int | None) -> dict[str, int]:
    """What a call adds to the usage. `used` is a Usage or a row of the ledger."""
    return {
        "calls": 1,
        "failed": int(state is CallState.FAILED),
        "estimated": int(used.estimated),
        "unpriced": int(nano is None),
        **{name: getattr(used, name) for name in TOKEN_COLUMNS},
        "cost_nano": nano or 0,
    }


def _columns(call_id: int, after: Settlement) -> dict[str, Any]:
    return {
        "call_id": call_id,
        "state": after.state,
        "error": after.error,
        "settled_at": time.time(),
        "cost_nano": after.nano,
        **{name: getattr(after.usage, name) for name in TOKEN_COLUMNS},
        "estimated": after.usage.estimated,
        "answered_model": after.model,
        "service_tier": after.usage.service_tier,
        "provider_status": after.provider_status,
        "provider_message": after.provider_message,
    }


_LOCKED = (
    select(ledger)
    .where(ledger.c.id.in_(bindparam("ids", expanding=True)))
    .order_by(ledger.c.id)
    .with_for_update()
)
_UPDATE = ledger.update().where(ledger.c.id == bindparam("call_id"))


def _add_usage(connection: Connection, used: dict[tuple[Any, ...], Counter[str]]) -> None:
    names = [column.name for column in usage.primary_key.columns]
    rows = [dict(zip(names, key, strict=True)) | counted for key, counted in sorted(used.items())]
    counters = [column.name for column in usage.columns if not column.primary_key]
    if rows:
        execute_rows(connection, increment(connection, usage, counters), rows)
        _add_activity(connection, used)


def _add_activity(connection: Connection, used: dict[tuple[Any, ...], Counter[str]]) -> None:
    """Add billed tokens and cost to the current minute, not to that of the reservation."""
    minute = activity.this_minute()
    billed: defaultdict[int, Counter[str]] = defaultdict(Counter)
    for (_, key_id, *_), counted in used.items():
        tokens = counted["input_tokens"] + counted["output_tokens"]
        billed[key_id].update(tokens=tokens, cost_nano=counted["cost_nano"])
    activity.add(connection, ((minute, key_id, sums) for key_id, sums in billed.items()))
