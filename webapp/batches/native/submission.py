"""Hands a part whose ceilings are reserved over to its provider, once."""

from __future__ import annotations

from collections.abc import Iterator

from webapp.batches.batch_store import REVOKED_ERROR, BatchStore
from webapp.batches.line_reading import MISSING_ERROR
from webapp.batches.native.collection import FIRST_POLL
from webapp.batches.native.collector import Collector
from webapp.batches.native.part_lines import PartLines
from webapp.batches.native.parts import Part, PartStore
from webapp.batches.native.ports import ProviderBatches, Refused, temporary
from webapp.batches.native.requests import KeyRevoked, LineRequests
from webapp.batches.native.reservation import Reservation, line_text
from webapp.batches.tables import LineState, NativeState
from webapp.llm.routing import Target
from webapp.storage.blobs import BlobMissing


class Submission:
    """Steps are as Reservation's. They raise ProviderAway, too."""

    def __init__(
        self,
        batches: BatchStore,
        parts: PartStore,
        lines: PartLines,
        requests: LineRequests,
        collector: Collector,
        reservation: Reservation,
    ) -> None:
        self._batches = batches
        self._parts = parts
        self._lines = lines
        self._requests = requests
        self._collector = collector
        self._reservation = reservation

    def submit(self, part: Part, api: ProviderBatches, target: Target) -> float | None:
        count = self._lines.count(part)
        if part.state is NativeState.SUBMITTING:
            known = self._parts.provider_ids(part.provider)
            found = temporary(lambda: api.find(part.token, part.created_at, count, known))
            if found:
                return self._submitted(part, found)
        if part.is_stopped:
            return self._reservation.drop(part)
        file_id = part.provider_file_id
        try:
            self._requests.billing(part.batch, part.first_line)
            if file_id is None:
                file_id = api.upload(part.token, self._texts(part, api, target))
                self._parts.change(part, provider_file_id=file_id)
            self._parts.change(part, state=NativeState.SUBMITTING)
            created = api.create(
                part.token, part.batch.endpoint, file_id, self._texts(part, api, target)
            )
        except Refused as refused:
            outcome = (refused.code, str(refused))
            self._collector.end_rest(part, outcome, was_run=False)
            self._parts.end(part)
            return None
        except KeyRevoked:
            self._batches.stop(part.batch.id, REVOKED_ERROR)
            return self._reservation.drop(part)
        except BlobMissing:
            self._batches.stop(part.batch.id, MISSING_ERROR)
            return self._reservation.drop(part)
        return self._submitted(part, created)

    def _submitted(self, part: Part, provider_batch_id: str) -> float:
        state = NativeState.SUBMITTED
        self._parts.change(part, state=state, provider_batch_id=provider_batch_id)
        return FIRST_POLL

    def _texts(self, part: Part, api: ProviderBatches, target: Target) -> Iterator[bytes]:
        """The lines that were reserved, as the provider gets them."""
        lines = self._lines.between(part.batch, part.first_line, part.last_line, LineState.RUNNING)
        for one in self._requests.of(part.batch, target, lines):
            yield line_text(part, api, one)
