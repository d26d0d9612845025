"""The figures of batches that /metrics shows, on both databases."""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import insert

from tests.support.batches import add_calls
from webapp.batches.batch import Batch, LineUpdate, NewLine
from webapp.batches.batch_store import CANCELLED_ERROR, EXPIRED_ERROR, BatchStore
from webapp.batches.figures import read_figures
from webapp.batches.lines import LineStore, write_updates
from webapp.batches.tables import BatchState, LineState, Mode, batches
from webapp.metering.heartbeats import Heartbeats, workers
from webapp.observability.gauges import BatchFigures
from webapp.storage.database import Database, DatabaseTime


def figures(database: Database) -> BatchFigures:
    return database.read(read_figures)


def add(database: Database, number: int, total: int, *, age: float = 0.0, **values: Any) -> Batch:
    """A batch in progress whose lines wait."""
    now = time.time()
    row = {
        "id": f"batch_{number}", "kind": "batch", "key_id": 1, "endpoint": "/v1/embeddings",
        "state": BatchState.IN_PROGRESS, "completion_window": "24h", "mode": Mode.DIRECT,
        "on_lost": "retry", "total": total, "succeeded": 0, "failed": 0, "request_id": "r",
        "callback_attempts": 0, "created_at": now - age, "expires_at": now + 86_400,
    } | values  # fmt: skip
    database.write(lambda connection: connection.execute(insert(batches).values(row)))
    lines = [NewLine(line, f"line-{line}", 0, 10) for line in range(1, total + 1)]
    LineStore(database).insert(f"batch_{number}", lines)
    return BatchStore(database).find(f"batch_{number}")


def test_where_there_are_no_batches_all_figures_are_0(database: Database) -> None:
    assert figures(database) == BatchFigures(
        {"validating": 0, "in_progress": 0, "finalizing": 0, "cancelling": 0},
        0,
        0.0,
        0,
        {"succeeded": 0, "failed": 0, "stopped": 0, "expired": 0},
        0,
        0,
    )


def test_lines_wait_until_they_have_ended_unless_a_provider_has_them(database: Database) -> None:
    add(database, 1, 5, age=100, succeeded=2, failed=1)
    add(database, 2, 3, age=50, state=BatchState.CANCELLING)
    # It has waited for longest, but its lines have ended.
    add(database, 3, 4, age=900, succeeded=4, state=BatchState.FINALIZING)
    add(database, 4, 7, age=800, mode=Mode.NATIVE)
    add(database, 5, 9, age=700, state=BatchState.EXPIRED)
    found = figures(database)
    assert found.waiting_lines == 5
    assert 100 <= found.oldest_waiting < 160
    assert found.batches == {"validating": 0, "in_progress": 2, "finalizing": 1, "cancelling": 1}


def test_lines_are_counted_by_how_they_ended(database: Database) -> None:
    lines, worker = LineStore(database), Heartbeats(database).register()
    batch = add(database, 1, 3)
    ended = [
        LineUpdate(line, state, cost_nano=1_000_000)
        for line, state in zip(
            lines.claim(batch, worker, 2), (LineState.SUCCEEDED, LineState.FAILED), strict=True
        )
    ]
    database.write(lambda connection: write_updates(connection, ended))
    lines.stop("batch_1", CANCELLED_ERROR["code"])
    add(database, 2, 2)
    lines.stop("batch_2", EXPIRED_ERROR["code"])
    found = figures(database)
    assert found.lines == {"succeeded": 1, "failed": 1, "stopped": 1, "expired": 2}
    assert found.cost_nano == 2_000_000
    assert BatchStore(database).find("batch_1").failed == 2, "for the client both have failed"


def test_lines_of_a_worker_that_is_gone_are_lost(database: Database) -> None:
    heartbeats, lines = Heartbeats(database), LineStore(database)
    batch, worker_id = add(database, 1, 3), heartbeats.register()
    lines.claim(batch, worker_id, 2)
    add_calls(database, batch, worker_id, 1, 2)
    heartbeats.leave()
    lines.free_lost()
    assert figures(database).lost == 2
    assert figures(database).waiting_lines == 3


def test_only_workers_of_batches_that_were_seen_lately_count(database: Database) -> None:
    Heartbeats(database).register()
    for _ in range(2):
        Heartbeats(database).register_batch_worker()
    assert figures(database).workers == 2
    old = workers.update().values(batch_worker_seen_at=DatabaseTime() - 31)
    database.write(lambda connection: connection.execute(old))
    assert figures(database).workers == 0
