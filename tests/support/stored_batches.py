"""Batches and jobs that are put into the database of a Weir, in any state.

One in progress has no waiting lines, so that no process goes on with it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import insert

from tests.support.servers import Weir
from webapp.batches.batch_store import TIME_COLUMNS, BatchStore, new_id
from webapp.batches.lines import LineStore
from webapp.batches.tables import BatchState, LineState, batch_lines, batches
from webapp.files.file_store import FileStore
from webapp.metering.budgets import NO_START, budgets
from webapp.metering.heartbeats import Heartbeats
from webapp.storage.blobs import make_blob_store
from webapp.storage.database import Database

DAY = 86_400.0


def _line_of_job(batch_id: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """One that runs belongs to no worker, so that none goes on with it."""
    state = LineState.RUNNING
    if values.get("succeeded") or values.get("failed"):
        state = LineState.SUCCEEDED if values.get("succeeded") else LineState.FAILED
    return {
        "batch_id": batch_id, "number": 1, "custom_id": "", "state": state, "position": 0,
        "length": 2, "tries": 1, "lost": 0, "not_before": 0.0, "worker_id": 0,
        "error": values.get("stopped_by", {}).get("code"),
    }  # fmt: skip


class StoredBatches:
    """The batches, lines and files of a Weir, written and read beside it."""

    def __init__(self, weir: Weir) -> None:
        data_dir = Path(weir.data_dir)
        url = weir.env.get("DATABASE_URL") or f"sqlite:///{data_dir / 'weir.db'}"
        self.database = Database(url.replace("postgresql://", "postgresql+psycopg://"))
        self.batches, self.lines = BatchStore(self.database), LineStore(self.database)
        self._heartbeats = Heartbeats(self.database)
        self.files = FileStore(
            self.database,
            make_blob_store("", data_dir, self.database),
            quota=10**9,
            max_bytes=10**8,
            retention=(7, 30),
            worker_id=self._heartbeats.register,
        )

    def close(self) -> None:
        self.database.engine.dispose()

    def file(self, key_id: int, content: bytes, purpose: str = "batch") -> str:
        try:
            return self.files.save(key_id, purpose, "lines.jsonl", [content]).id
        finally:
            self._heartbeats.leave()

    def batch(
        self,
        key_id: int,
        state: str = "completed",
        *,
        kind: str = "batch",
        ago: float = 60.0,
        spent_nano: int = 0,
        failed_lines: Mapping[int, tuple[str, int, int]] | None = None,
        **values: Any,
    ) -> str:
        """The id of a new batch, created so many seconds ago.

        `failed_lines` gives the error, position and length of lines by number.
        """
        batch_id, created_at = new_id(kind), time.time() - ago
        moved_at = created_at + ago / 2
        row: dict[str, Any] = {
            "id": batch_id, "kind": kind, "key_id": key_id, "endpoint": "/v1/chat/completions",
            "state": state, "completion_window": "24h", "mode": "direct", "on_lost": "retry",
            "total": 0, "succeeded": 0, "failed": 0, "request_id": f"request-of-{batch_id}",
            "callback_attempts": 0, "created_at": created_at, "expires_at": created_at + DAY,
        }  # fmt: skip
        if state in TIME_COLUMNS:
            row |= {"in_progress_at": moved_at, TIME_COLUMNS[BatchState(state)]: moved_at}
        for name, value in values.items():
            row[name] = json.dumps(value) if isinstance(value, dict | list) else value
        lines = [
            {
                "batch_id": batch_id, "number": number, "custom_id": f"line-{number}",
                "state": LineState.FAILED, "position": position, "length": length, "tries": 1,
                "lost": 0, "not_before": 0.0, "error": error,
            }
            for number, (error, position, length) in (failed_lines or {}).items()
        ]  # fmt: skip
        if kind == "job":
            lines = [_line_of_job(batch_id, values)]
        budget = {
            "key_id": key_id, "period": batch_id, "start": NO_START, "spent_nano": spent_nano,
            "reserved_nano": 0,
        }  # fmt: skip

        def write(connection: Any) -> None:
            connection.execute(insert(batches).values(row))
            if lines:
                connection.execute(insert(batch_lines), lines)
            if spent_nano:
                connection.execute(insert(budgets).values(budget))

        self.database.write(write)
        return batch_id
