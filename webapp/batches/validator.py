"""Validates the input file of a batch, and lets its lines begin or the batch fail."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial

from webapp.batches.batch import Batch
from webapp.batches.batch_store import REVOKED_ERROR, BatchStore
from webapp.batches.finalization import Finalization
from webapp.batches.line_format import LineFormat
from webapp.batches.line_runner import GatewayLineRunner
from webapp.batches.lines import LineStore
from webapp.batches.tables import BatchState, Mode
from webapp.batches.validation import Validated, Validation
from webapp.storage.blobs import BlobMissing, BlobStore

# Gives the mode of a valid batch, and why. Raises NotPossible.
ChooseMode = Callable[[Batch, Validated], tuple[Mode, str | None]]


class NotPossible(Exception):
    """A batch cannot be worked on in the mode that its client named; the message says why."""


class Validator:
    """Every method may raise StoreUnavailable."""

    def __init__(
        self,
        batches: BatchStore,
        lines: LineStore,
        blobs: BlobStore,
        finalization: Finalization,
        runner: GatewayLineRunner,
        line_format: LineFormat,
        choose_mode: ChooseMode,
    ) -> None:
        self._batches = batches
        self._lines = lines
        self._blobs = blobs
        self._finalization = finalization
        self._runner = runner
        self._format = line_format
        self._choose_mode = choose_mode

    def validate(self, batch: Batch) -> None:
        """Validate a batch that this worker has taken, from the beginning of its file."""
        principal = self._runner.principal(batch.key_id)
        if principal is None:
            self._batches.move(
                batch.id,
                BatchState.CANCELLING,
                of=[BatchState.VALIDATING],
                stopped_by=json.dumps(REVOKED_ERROR),
                worker_id=None,
            )
            return
        # A worker that was lost may have inserted some.
        self._lines.delete_all(batch.id)
        validation = Validation(
            batch.endpoint,
            self._format,
            partial(self._runner.check_model, principal),
            partial(self._lines.insert, batch.id),
        )
        assert batch.input_file_id, "Every batch has an input file."
        try:
            found = validation.run(self._blobs.read(batch.input_file_id))
        except BlobMissing:
            found = Validated()
            _add(found, "file_not_found", "The input file is not there any more.")
        mode, reason = Mode.DIRECT, None
        if not found.errors:
            try:
                mode, reason = self._choose_mode(batch, found)
            except NotPossible as error:
                _add(found, "native_not_possible", str(error))
        if found.errors:
            self._finalization.fail(batch, found)
        elif not self._finalization.begin(batch, found, mode=mode, mode_reason=reason):
            now = self._batches.find(batch.id)
            if now.cancelling_at and now.worker_id == batch.worker_id:
                self._lines.delete_all(batch.id)


def _add(found: Validated, code: str, message: str) -> None:
    found.errors.append({"code": code, "message": message, "param": None, "line": None})
