"""How much of a key's budgets its native batches hold, and until when."""

from __future__ import annotations

from sqlalchemy import Connection, and_, func, select

from webapp.batches.tables import ACTIVE, Mode, batches
from webapp.metering.budgets import NO_START, HeldBudget, budgets


def held_by_batches(connection: Connection, key_id: int) -> HeldBudget | None:
    """What the native batches of a key have reserved together, until the first of them expires."""
    of_batch = and_(
        budgets.c.key_id == batches.c.key_id,
        budgets.c.period == batches.c.id,
        budgets.c.start == NO_START,
    )
    query = (
        select(func.sum(budgets.c.reserved_nano), func.min(batches.c.expires_at))
        .join(batches, of_batch)
        .where(
            batches.c.key_id == key_id,
            batches.c.mode == Mode.NATIVE,
            batches.c.state.in_(ACTIVE),
            budgets.c.reserved_nano > 0,
        )
    )
    nano, until = connection.execute(query).one()
    return HeldBudget(int(nano), until) if nano else None
