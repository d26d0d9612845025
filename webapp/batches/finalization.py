"""Ends batches: writes the output and error files, and moves them to their last state."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from typing import Any

from webapp.batches.batch import Batch
from webapp.batches.batch_store import EXPIRED_ERROR, BatchStore
from webapp.batches.lines import REFUSED_ERROR, LineStore
from webapp.batches.tables import BatchState, Kind, LineState
from webapp.batches.validation import Validated
from webapp.files.file_store import RESULTS, FileStore

OUTPUT = "output"
MAX_SHOWN_ERRORS = 100  # of validation, in the batch itself; the error file has all
LOST_ERROR = {
    "code": "worker_lost",
    "message": "The worker that ran this line was lost; it may have been charged for.",
}

ERRORS_OF_LINES = {error["code"]: error for error in (LOST_ERROR, REFUSED_ERROR)}


class Finalization:
    """Every method may raise StoreUnavailable."""

    def __init__(self, batches: BatchStore, lines: LineStore, files: FileStore) -> None:
        self._batches = batches
        self._lines = lines
        self._files = files

    def fail(self, batch: Batch, found: Validated) -> None:
        """End a batch whose file is not valid, with a file of the errors."""
        errors = (
            _line(batch, found.custom_ids.get(error["line"]), error=error) for error in found.errors
        )
        written = self._write(batch, "errors", errors)
        failed = self._batches.move(
            batch.id,
            BatchState.FAILED,
            of=[BatchState.VALIDATING],
            taken_by=batch.worker_id,
            errors=json.dumps(found.errors[:MAX_SHOWN_ERRORS]),
            error_file_id=written,
            worker_id=None,
        )
        if failed:
            self._lines.delete_all(batch.id)

    def begin(self, batch: Batch, found: Validated, **values: Any) -> Batch | None:
        """Let the lines of a valid batch begin; None where it was cancelled meanwhile."""
        return self._batches.move(
            batch.id,
            BatchState.IN_PROGRESS,
            of=[BatchState.VALIDATING],
            taken_by=batch.worker_id,
            total=found.total,
            worker_id=None,
            **values,
        )

    def finish(self, batch: Batch) -> None:
        """End a batch of which no line waits or runs."""
        state = _last_state(batch)
        of = [BatchState.IN_PROGRESS, BatchState.CANCELLING, BatchState.FINALIZING]
        if batch.kind is Kind.JOB:
            due = time.time() if batch.callback_url else None
            self._batches.move(batch.id, state, of=of, callback_due_at=due, worker_id=None)
            return
        output = error_file = None
        if batch.succeeded:
            output = self._write(batch, OUTPUT, self._results(batch, LineState.SUCCEEDED))
        if batch.failed:
            error_file = self._write(batch, "errors", self._results(batch, LineState.FAILED))
        failures = json.dumps(self._lines.failures(batch.id))
        self._batches.move(
            batch.id,
            state,
            of=of,
            output_file_id=output,
            error_file_id=error_file,
            failures=failures,
            worker_id=None,
        )
        # Those that failed stay, without their results, so that they can be tried again.
        self._lines.delete_all(batch.id, LineState.SUCCEEDED)
        self._lines.drop_results(batch.id)

    def _results(self, batch: Batch, state: LineState) -> Iterator[bytes]:
        not_begun = batch.stopped_by or LOST_ERROR
        for _, custom_id, error, result in self._lines.results(batch.id, state):
            if result is None:
                known = ERRORS_OF_LINES.get(error or "", not_begun)
                yield _line(batch, custom_id, error=known)
            else:
                yield result

    def _write(self, batch: Batch, what: str, lines: Iterable[bytes]) -> str:
        chunks = (line + b"\n" for line in lines)
        keep = batch.output_expires_after
        name = f"{batch.id}_{what}.jsonl"
        return self._files.save(batch.key_id, RESULTS, name, chunks, keep_seconds=keep).id


def result_line(
    batch: Batch,
    number: int,
    custom_id: str,
    status: int,
    body: bytes,
    request_id: str,
    notes: dict[str, Any],
) -> bytes:
    """A line of the output or error file: OpenAI's fields, the body as it is, Weir's notes."""
    head = json.dumps({"id": _request_name(batch, number), "custom_id": custom_id})
    response = json.dumps({"status_code": status, "request_id": request_id})
    tail = json.dumps({"error": None, "weir": notes})
    flat = body.strip().replace(b"\r", b"").replace(b"\n", b"")
    parts = (head[:-1], ', "response": ', response[:-1], ', "body": ')
    return "".join(parts).encode() + flat + b"}, " + tail[1:].encode()


def _line(batch: Batch, custom_id: str | None, *, error: Any) -> bytes:
    name = _request_name(batch, error.get("line") or 0)
    line = {"id": name, "custom_id": custom_id, "response": None, "error": error}
    return json.dumps(line).encode()


def _request_name(batch: Batch, number: int) -> str:
    return f"batch_req_{batch.id.removeprefix('batch_')}_{number}"


def _last_state(batch: Batch) -> BatchState:
    if batch.cancelling_at:
        return BatchState.CANCELLED
    if batch.stopped_by and batch.stopped_by["code"] == EXPIRED_ERROR["code"]:
        return BatchState.EXPIRED
    return BatchState.COMPLETED
