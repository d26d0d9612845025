"""What is read of the ledger is found by its indexes: it holds calls of 400 days."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import event

from webapp.llm.calls import CallState
from webapp.metering.calls import Calls, ledger
from webapp.storage import migrations
from webapp.storage.database import Database


def test_a_provider_s_last_failure_is_found_by_an_index(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/weir.db")
    migrations.upgrade(database)
    texts = dict.fromkeys(("request_id", "endpoint", "route", "provider", "model"), "x")
    counts = (
        "worker_id", "key_id", "attempt", "ceiling_input_tokens", "ceiling_output_tokens",
        "input_tokens", "cached_input_tokens", "output_tokens",
    )  # fmt: skip
    failed = {
        "id": 1, "state": CallState.FAILED, "day": datetime.now(UTC).date(),
        "reserved_at": time.time(), "settled_at": time.time(), "estimated": False,
    }  # fmt: skip
    row = texts | dict.fromkeys(counts, 1) | failed
    database.write(lambda connection: connection.execute(ledger.insert().values(row)))
    plans: list[str] = []

    def explain(_connection: Any, cursor: Any, sql: str, parameters: Any, *_: Any) -> None:
        if sql.startswith("SELECT"):
            steps = cursor.execute(f"EXPLAIN QUERY PLAN {sql}", parameters).fetchall()
            plans.extend(step[3] for step in steps)

    event.listen(database.engine, "before_cursor_execute", explain)
    figures, _ = Calls(database).by_provider(0)
    assert figures["x"].last_failure
    ledger_steps = [plan for plan in plans if " ledger" in plan]
    assert len(ledger_steps) == 2
    assert all("USING" in step and "ix_ledger_reserved_at" in step for step in ledger_steps), plans
