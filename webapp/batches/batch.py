"""The values of batches: a batch as its row has it, its lines, and how a line ended."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from webapp.batches.tables import BatchState, Kind, LineState, Mode

JSON_COLUMNS = ("metadata", "errors", "stopped_by", "failures")


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch or job as it was when it was read. Times are Unix seconds; see tables.py."""

    id: str
    kind: Kind
    key_id: int
    endpoint: str
    state: BatchState
    completion_window: str
    input_file_id: str | None
    output_file_id: str | None
    error_file_id: str | None
    metadata: dict[str, str] | None
    mode: Mode
    mode_reason: str | None
    cap_nano: int | None
    on_lost: str
    output_expires_after: int | None
    total: int
    succeeded: int
    failed: int
    errors: list[dict[str, Any]] | None
    stopped_by: dict[str, str] | None
    failures: dict[str, int] | None
    worker_id: int | None
    request_id: str
    callback_url: str | None
    callback_attempts: int
    callback_due_at: float | None
    created_at: float
    expires_at: float
    in_progress_at: float | None
    finalizing_at: float | None
    completed_at: float | None
    failed_at: float | None
    expired_at: float | None
    cancelling_at: float | None
    cancelled_at: float | None

    @property
    def waiting(self) -> int:
        """The lines that have not ended."""
        return self.total - self.succeeded - self.failed

    @property
    def ended_at(self) -> float | None:
        return self.completed_at or self.failed_at or self.expired_at or self.cancelled_at


def batch_of(row: Mapping[Any, Any]) -> Batch:
    """The batch of a row of the table."""
    fields = {name: row[name] for name in Batch.__slots__}
    for name in JSON_COLUMNS:
        fields[name] = fields[name] and json.loads(fields[name])
    fields["kind"], fields["mode"] = Kind(fields["kind"]), Mode(fields["mode"])
    return Batch(**fields | {"state": BatchState(fields["state"])})


@dataclass(frozen=True, slots=True)
class NewLine:
    """A valid line of an input file, and where it is there, in bytes."""

    number: int
    custom_id: str
    position: int
    length: int


@dataclass(frozen=True, slots=True)
class ClaimedLine:
    """A line that belongs to a worker. `tries` counts this one; `lost` the workers lost with it."""

    batch: Batch
    worker_id: int
    number: int
    custom_id: str
    position: int
    length: int
    request: bytes | None
    tries: int
    lost: int


@dataclass(frozen=True, slots=True)
class LineUpdate:
    """What becomes of a claimed line: it has ended with a result, or it waits again.

    `result` is its line of the output or error file; `error` the code of its error; `cost_nano`
    what its answer cost. `tries` and `not_before` (Unix seconds) are those of a line that waits
    again.
    """

    line: ClaimedLine
    state: LineState
    result: bytes | None = None
    error: str | None = None
    cost_nano: int = 0
    tries: int = 0
    not_before: float = 0.0


@dataclass(frozen=True, slots=True)
class JobLine:
    """The only line of a job."""

    state: LineState
    error: str | None
    result: bytes | None
