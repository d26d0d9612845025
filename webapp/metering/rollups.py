"""Totals of all keys by minute, half hour and day, by target, and of all targets together.

They are read where figures of all keys are asked for: the rows of each key would be hundreds of
times as many. A step is rolled up some time after its end. What is counted in it later forgets its
rollup, in the same transaction, so that figures never differ from those of the rows of the keys.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable
from functools import partial
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Integer,
    String,
    Table,
    and_,
    func,
    or_,
    select,
    true,
    tuple_,
)

from webapp.metering.activity import expired_rows
from webapp.metering.ranges import Window
from webapp.metering.selected import Selected
from webapp.metering.target_latency import ALL_TARGETS, KEPT_DAYS
from webapp.metering.totals import FIELDS, UsageTotals
from webapp.storage.database import metadata
from webapp.storage.retention import Expired

rollups = Table(
    "rollups",
    metadata,
    Column("span", Integer, primary_key=True),  # seconds
    Column("start", BigInteger, primary_key=True),  # Unix seconds
    # ALL_TARGETS and ALL_TARGETS in the row that each step has that is rolled up.
    Column("provider", String(32), primary_key=True),
    Column("model", String(256), primary_key=True),
    *(Column(name, BigInteger, nullable=False, server_default="0") for name in FIELDS),
)

# A step is rolled up when it has been over for DELAY seconds. Who counts in it forgets its rollup
# if it has been over for LATE seconds; a transaction that began before has ended when it is rolled
# up, even if the clocks of two hosts differ by most of a minute.
DELAY = 120.0
LATE = DELAY / 2
# A number for the advisory lock that no migration and no other program uses.
LOCK_ID = 0x726F6C6C


def read_rollups(
    connection: Connection,
    window: Window,
    selected: Selected,
    fields: Collection[str],
    *,
    by_target: bool,
) -> tuple[set[int], list[tuple[int, str, str, UsageTotals]]]:
    """The Unix seconds of a window's spans that are rolled up, and their totals: (start, provider,
    model, totals). One statement reads both: the next one may find a rollup forgotten."""
    wanted: list[Any] = selected.conditions(rollups) if by_target else [_IS_OF_ALL]
    query = select(
        rollups.c.start, rollups.c.provider, rollups.c.model, *(rollups.c[name] for name in fields)
    ).where(
        rollups.c.span == window.span,
        rollups.c.start.in_(list(window.spans)),
        or_(_IS_OF_ALL, and_(true(), *wanted)),
    )
    rolled_up, found = set(), []
    for start, provider, model, *counted in connection.execute(query):
        is_of_all = provider == ALL_TARGETS
        if is_of_all:
            rolled_up.add(start)
        if is_of_all != by_target:
            totals = UsageTotals(**dict(zip(fields, counted, strict=True)))
            found.append((start, provider, model, totals))
    return rolled_up, found


def is_free(connection: Connection) -> bool:
    """Whether no other transaction counts in steps that are over; none does until this one ends."""
    if connection.dialect.name != "postgresql":
        return True
    lock = select(func.pg_try_advisory_xact_lock(LOCK_ID))
    return bool(connection.execute(lock).scalar_one())


def forget_late(connection: Connection, steps: Iterable[tuple[int, int]]) -> None:
    """Delete the rollups of those (span, start) that are over, as the transaction counts in them
    after all."""
    latest = time.time() - LATE
    late = sorted((span, start) for span, start in steps if start + span < latest)
    if not late:
        return
    if connection.dialect.name == "postgresql":
        # Until this transaction ends, nothing is rolled up. Those that count share the lock, and
        # who rolls up does not wait for it, so none of them waits here.
        connection.execute(select(func.pg_advisory_xact_lock_shared(LOCK_ID)))
    connection.execute(rollups.delete().where(tuple_(rollups.c.span, rollups.c.start).in_(late)))


def expired() -> Expired:
    """The rows that no report reads any more."""
    return rollups, partial(expired_rows, rollups, days=KEPT_DAYS)


_IS_OF_ALL = rollups.c.provider == ALL_TARGETS
