"""Starts a new batch with the lines of one that failed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import starmap
from typing import NamedTuple

from webapp.accounts.audit import Actor
from webapp.batches.batch import Batch
from webapp.batches.batch_store import BatchStore
from webapp.batches.line_reading import spans
from webapp.batches.lines import LineStore
from webapp.batches.tables import Kind, Mode
from webapp.errors import Conflict, NotFound
from webapp.files.file_store import FileStore, StoredFile

PURPOSE = "batch"


class Place(NamedTuple):
    """Where a line is in its file, in bytes."""

    position: int
    length: int


class Retries:
    """Methods may raise StoreUnavailable."""

    def __init__(self, batches: BatchStore, lines: LineStore, files: FileStore) -> None:
        self._batches = batches
        self._lines = lines
        self._files = files

    def retry(
        self, batch: Batch, actor: Actor, request_id: str, *, tick: Callable[[], None]
    ) -> Batch:
        """A new batch for the same key, with the lines of this one that failed, and its settings.

        `tick` is called between reads. Raises Conflict, NotFound, RateLimitExceeded and
        StorageQuotaExceeded.
        """
        if batch.kind is not Kind.BATCH or batch.input_file_id is None:
            raise Conflict("A job cannot be retried. Send its request again.")
        if batch.ended_at is None:
            raise Conflict(
                f"Batch '{batch.id}' is {batch.state}. Only one that has ended is retried."
            )
        places = spans(starmap(Place, self._lines.failed(batch.id)))
        first = next(places, None)
        if first is None:
            raise Conflict(f"Batch '{batch.id}' has no failed lines.")
        try:
            file = self._files.find(batch.key_id, batch.input_file_id)
        except NotFound:
            raise NotFound(
                f"The input file '{batch.input_file_id}' of batch '{batch.id}' is not stored any "
                "more: it was deleted, or has expired (FILES_RETENTION)."
            ) from None

        def chunks() -> Iterator[bytes]:
            yield self._read(file, first)
            for span in places:
                tick()
                yield self._read(file, span)

        self._batches.check_count(batch.key_id)
        again = self._files.save(batch.key_id, PURPOSE, f"{batch.id}_retry.jsonl", chunks())
        metadata = batch.metadata or {}
        return self._batches.create(
            key_id=batch.key_id,
            endpoint=batch.endpoint,
            input_file_id=again.id,
            metadata=batch.metadata,
            completion_window=batch.completion_window,
            seconds=batch.expires_at - batch.created_at,
            mode=Mode(metadata.get("weir_mode", Mode.DIRECT)),
            cap_nano=batch.cap_nano,
            on_lost=batch.on_lost,
            output_expires_after=batch.output_expires_after,
            request_id=request_id,
            actor=actor,
        )

    def _read(self, file: StoredFile, span: Sequence[Place]) -> bytes:
        start = span[0].position
        end = span[-1].position + span[-1].length
        text = b"".join(self._files.read(file, start, end - start))
        return b"".join(text[position - start :][:length] + b"\n" for position, length in span)
