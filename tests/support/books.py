"""Compares the ledger with the calls that the stand-in provider has served."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from tests.support.servers import Provider, Weir, wait_until

# USD per million tokens of every model in the tests, and nano-USD per token.
PRICES = "openai/*: input=1, output=2, max_output=1000"
INPUT, OUTPUT = 1_000, 2_000


class Books:
    """The ledger, the budgets and the usage in the database."""

    def __init__(self, weir: Weir) -> None:
        url = weir.env.get("DATABASE_URL") or f"sqlite:///{Path(weir.data_dir) / 'weir.db'}"
        # Connections close when they are given back: nobody closes an engine's pool.
        url = url.replace("postgresql://", "postgresql+psycopg://")
        self.engine = create_engine(url, poolclass=NullPool)

    def rows(self, query: str = "SELECT * FROM ledger ORDER BY id") -> list[dict[str, Any]]:
        with self.engine.connect() as connection:
            return [dict(row) for row in connection.execute(text(query)).mappings()]

    def write(self, statement: str) -> None:
        """Change the database behind Weir's back, as time or an operator would."""
        with self.engine.begin() as connection:
            connection.execute(text(statement))

    def wait_for(self, query: str, timeout: float, what: str) -> None:
        """Wait until a query has rows. All looks share a connection: a new one costs more."""
        looks = self.engine.execution_options(isolation_level="AUTOCOMMIT")
        with looks.connect() as connection:
            wait_until(lambda: connection.execute(text(query)).all(), timeout, what)

    def settled(self, calls: int, timeout: float = 30.0) -> list[dict[str, Any]]:
        """The rows, once there are at least `calls` and none is reserved any more."""
        states = "count(*) AS calls, count(CASE WHEN state = 'reserved' THEN 1 END) AS reserved"
        query = (
            f"SELECT 1 FROM (SELECT {states} FROM ledger) AS states "
            f"WHERE calls >= {calls} AND reserved = 0"
        )
        self.wait_for(query, timeout, f"the settling of {calls} calls")
        return self.rows()

    def settled_of(self, request_id: str) -> list[dict[str, Any]]:
        """The rows of a request, once they are settled."""

        def done() -> list[dict[str, Any]]:
            rows = self.rows(f"SELECT * FROM ledger WHERE request_id = '{request_id}'")
            return [] if any(row["state"] == "reserved" for row in rows) else rows

        return wait_until(done, 10, f"the settling of request {request_id}")

    def forget(self) -> None:
        """Empty the tables of earlier tests, once nothing is reserved."""
        self.settled(0)
        with self.engine.begin() as connection:
            for table in ("ledger", "budgets", "usage"):
                connection.execute(text(f"DELETE FROM {table}"))

    def check(self, provider: Provider, timeout: float = 30.0) -> list[dict[str, Any]]:
        """Assert that every call has a correct row, and that all sums agree.

        Rows of calls that never reached the provider are not expected. Returns the rows.
        """
        wait_until(lambda: all(c["lasted"] is not None for c in provider.calls()), timeout)
        calls = [call for call in provider.calls() if call["method"] == "POST"]
        rows = self.settled(len(calls), timeout)
        called = Counter(call["body"]["model"] for call in calls)
        written_for = Counter(row["model"] for row in rows)
        assert not called - written_for, "each call has a row"
        # A worker may have been killed after it wrote the row and before it made the call.
        killed = Counter(row["model"] for row in rows if row["state"] == "lost")
        assert not written_for - called - killed, "each row has a call"
        served: defaultdict[str, list[tuple[int, ...]]] = defaultdict(list)
        written: defaultdict[str, list[tuple[int, ...]]] = defaultdict(list)
        for call in calls:
            served[call["body"]["model"]].append((*call["served"], int(call["told"])))
        never_made = written_for - called
        for row in rows:
            if row["state"] == "lost" and never_made[row["model"]]:
                never_made[row["model"]] -= 1
                continue
            tokens = (row["input_tokens"], row["output_tokens"])
            written[row["model"]].append((*tokens, int(not row["estimated"])))
        for model, served_calls in served.items():
            for call, row in zip(sorted(served_calls), sorted(written[model]), strict=True):
                if call[2] and row[2]:
                    assert row == call, f"{model}: the reported usage is written"
                else:
                    assert row[0] >= call[0], f"{model}: {row} is below {call}"
                    assert row[1] >= call[1], f"{model}: {row} is below {call}"
                    assert not (call[2] and not row[2]) or _gave_up(rows, model), (
                        f"{model}: usage was reported, but is estimated"
                    )
        self.check_sums(rows)
        return rows

    def cost_of(self, row: dict[str, Any]) -> int | None:
        """What a row should cost, in nano-USD; None if its model has no price."""
        return int(row["input_tokens"] * INPUT + row["output_tokens"] * OUTPUT)

    def check_sums(self, rows: list[dict[str, Any]]) -> None:
        """Assert that the costs of all rows, their budgets and the usage agree."""
        spent = Counter[int]()
        for row in rows:
            assert row["cost_nano"] == self.cost_of(row), row
            spent[row["key_id"]] += row["cost_nano"] or 0
        for period in ("day", "month"):
            budgets = self.rows(f"SELECT * FROM budgets WHERE period = '{period}'")
            totals = Counter[int]()
            for budget in budgets:
                totals[budget["key_id"]] += budget["spent_nano"]
                assert budget["reserved_nano"] == 0, "nothing stays reserved"
            assert totals == spent, period
        [rolled_up] = self.rows(
            "SELECT sum(calls) AS calls, sum(cost_nano) AS cost, sum(output_tokens) AS output "
            "FROM usage"
        )
        sums = (len(rows), sum(spent.values()), sum(row["output_tokens"] for row in rows))
        assert (int(rolled_up["calls"]), int(rolled_up["cost"]), int(rolled_up["output"])) == sums

    def check_sessions(self, rows: list[dict[str, Any]]) -> None:
        """Assert that the budgets of sessions agree with the costs of all rows."""
        spent: Counter[tuple[int, str]] = Counter()
        for row in rows:
            spent[row["key_id"], row["session_id"]] += row["cost_nano"]
        budgets = self.rows("SELECT * FROM budgets WHERE period LIKE 'session_%'")
        assert not any(one["reserved_nano"] for one in budgets), "nothing stays reserved"
        assert {(one["key_id"], one["period"]): one["spent_nano"] for one in budgets} == spent


def _gave_up(rows: list[dict[str, Any]], model: str) -> bool:
    """Whether the usage came too late to be read: the worker was gone, or the call cancelled."""
    states = {row["state"] for row in rows if row["model"] == model}
    return bool(states & {"lost", "cancelled", "cut"})
