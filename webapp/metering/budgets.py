"""Budgets: what each key has spent and reserved per UTC day and month, each batch and each limited
session in all, and when calls exceed it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache

from sqlalchemy import BigInteger, Column, Date, Integer, String, Table

from webapp import money
from webapp.errors import BudgetExceeded, BudgetReserved, WeirError
from webapp.llm import sessions
from webapp.llm.calls import BillingContext
from webapp.storage.database import metadata

budgets = Table(
    "budgets",
    metadata,
    Column("key_id", Integer, primary_key=True),
    # `day`, `month`, or the id of a batch or a session, which have no start.
    Column("period", String(40), primary_key=True),
    Column("start", Date, primary_key=True),
    Column("spent_nano", BigInteger, nullable=False),
    Column("reserved_nano", BigInteger, nullable=False),
)

DAY, MONTH = "day", "month"
NO_START = date(1970, 1, 1)
# The start of a session's budget: budgets with the one above are deleted with their batches.
OF_SESSION = date(1970, 1, 2)
# The primary key of a row: key id, period, start of the period.
BudgetKey = tuple[int, str, date]
AMOUNTS = ("spent_nano", "reserved_nano")


@dataclass(slots=True)
class Spending:
    """The amounts of a row, in nano-USD."""

    spent: int = 0
    reserved: int = 0


@dataclass(frozen=True, slots=True)
class HeldBudget:
    """Nano-USD that native batches of a key have reserved, until a Unix time at the latest."""

    nano: int
    until: float


@dataclass(frozen=True, slots=True)
class Budget:
    """One limit and what is used of it, in nano-USD. `session` is the label of its session."""

    period: str
    start: date
    limit: int
    spent: int
    reserved: int
    session: str | None = None

    @property
    def of_batch(self) -> bool:
        """Whether it is the cost cap of a batch."""
        return self.start == NO_START

    @property
    def of_key(self) -> bool:
        """Whether all calls of the key count, and not only those of a batch or a session."""
        return self.start not in {NO_START, OF_SESSION}

    @property
    def name(self) -> str:
        if self.session is not None:
            return "usd_per_session"
        return "weir_cost_cap_usd" if self.of_batch else f"usd_per_{self.period}"

    @property
    def _described(self) -> str:
        size = f"{money.text(self.limit)} USD"
        if self.of_batch:
            return f"The cost cap of {size} of this batch"
        if self.session is not None:
            return f"The limit of {size} of session {self.session}"
        return f"The budget of {size} per {self.period}"

    @property
    def reset(self) -> int | None:
        """The end of the period, in Unix seconds; None for a batch or a session."""
        if not self.of_key:
            return None
        return int(
            datetime.combine(end_of(self.period, self.start), datetime.min.time(), UTC).timestamp()
        )

    def refusal(self, nano: int, now: float, *, alone: bool = False) -> WeirError | None:
        """The error if a call with this cost ceiling does not fit, else None.

        `alone` ignores what other calls have reserved.
        """
        if self.spent + nano > self.limit and self.session is not None:
            left = f"{money.text(max(0, self.limit - self.spent))} of {money.text(self.limit)} USD"
            told = f"has {left} left, and this request may cost {money.text(nano)} USD"
            return sessions.exceeded(self.session, self.name, told, self._details(nano))
        if self.spent + nano > self.limit:
            seconds = None if self.reset is None else max(1, math.ceil(self.reset - now))
            return BudgetExceeded(
                f"{self._described} has "
                f"{money.text(max(0, self.limit - self.spent))} USD left; this request may cost "
                f"{money.text(nano)} USD.",
                details=self._details(nano),
                retry_after=seconds,
            )
        if not alone and self.spent + self.reserved + nano > self.limit:
            return BudgetReserved(
                f"{self._described} is reserved by running requests. Try again in 1 s.",
                details=self._details(nano),
                retry_after=1,
            )
        return None

    def refusal_while_held(self, nano: int, now: float, held: HeldBudget) -> WeirError | None:
        """The error if such a call does not fit as long as native batches hold so much."""
        if self.spent + held.nano + nano <= self.limit:
            return None
        return BudgetReserved(
            f"{self._described} is reserved by a native batch until it is collected.",
            details=self._details(nano),
            retry_after=max(1, math.ceil(held.until - now)),
        )

    def _details(self, nano: int) -> dict[str, object]:
        return {
            "limit": self.name,
            "size": money.to_usd(self.limit),
            "used": money.to_usd(self.spent),
            "reserved": money.to_usd(self.reserved),
            "needed": money.to_usd(nano),
            "reset": self.reset,
        }


def starts(day: date) -> dict[str, date]:
    """The start of each period that contains a day, by period."""
    return {DAY: day, MONTH: day.replace(day=1)}


@lru_cache
def keys_of(
    key_id: int, day: date, batch_id: str | None = None, session_id: str | None = None
) -> Sequence[BudgetKey]:
    """The budgets of a key that a call of this day belongs to, that of its batch and that of its
    session."""
    of_key = [(key_id, period, start) for period, start in starts(day).items()]
    of_batch = [] if batch_id is None else [(key_id, batch_id, NO_START)]
    of_session = [] if session_id is None else [(key_id, session_id, OF_SESSION)]
    return [*of_key, *of_batch, *of_session]


def end_of(period: str, start: date) -> date:
    if period == DAY:
        return start + timedelta(days=1)
    return (start + timedelta(days=32)).replace(day=1)


def limits_of(billing: BillingContext) -> Iterator[tuple[str, int]]:
    """(period, nano-USD) of each budget of the key that is billed."""
    if billing.usd_per_day is not None:
        yield DAY, billing.usd_per_day
    if billing.usd_per_month is not None:
        yield MONTH, billing.usd_per_month
