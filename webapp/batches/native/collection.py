"""Looks how far a provider is with a part; cancels it, or collects it when it has ended."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable

from webapp.batches.native.collector import Collector
from webapp.batches.native.part_lines import PartLines
from webapp.batches.native.parts import Part, PartStore
from webapp.batches.native.ports import (
    LineResult,
    ProviderAway,
    ProviderBatches,
    Refused,
    temporary,
)
from webapp.llm.routing import Target

log = logging.getLogger(__name__)

FIRST_POLL, LAST_POLL = 10.0, 300.0  # seconds between two looks
POLLS_PER_AGE = 10  # a batch is looked at again when it is so much older
AWAY_DELAY = 15.0  # seconds until a provider that was away is asked again
MAX_COLLECTIONS = 4  # of results that are fewer than the lines


class Collection:
    """Steps are as Reservation's. They raise ProviderAway, too."""

    def __init__(self, parts: PartStore, lines: PartLines, collector: Collector) -> None:
        self._parts = parts
        self._lines = lines
        self._collector = collector
        self._collections: dict[str, int] = {}  # by token, of results that lack some

    def look(self, part: Part, api: ProviderBatches, target: Target) -> float | None:
        """Ask how far a part is; cancel or collect it."""
        assert part.provider_batch_id
        try:
            progress = api.progress(part.provider_batch_id)
        except Refused as gone:
            # Nobody knows what it cost.
            outcome = (gone.code, str(gone))
            self._collector.end_rest(part, outcome, was_run=True)
            self._parts.end(part)
            return None
        if progress.ended:
            results = api.results(part.provider_batch_id, part.model)
            self._collect(part, target, results)
            if progress.was_run and self._lines.count(part):
                tries = self._collections[part.token] = self._collections.get(part.token, 0) + 1
                if tries < MAX_COLLECTIONS:
                    log.warning("The results of %s lack some", part.provider_batch_id)
                    return AWAY_DELAY
            self._collections.pop(part.token, None)
            outcome, stopped = progress.outcome, part.batch.stopped_by
            if stopped and not progress.was_run:
                outcome = stopped["code"], stopped["message"]
            self._collector.end_rest(part, outcome, was_run=progress.was_run)
            self._parts.end(part)
            self._forget(part, api)
            return None
        if part.is_stopped and part.cancelled_at is None and progress.cancellable:
            temporary(lambda: api.cancel(part.provider_batch_id or ""))
            self._parts.change(part, cancelled_at=time.time())
            return FIRST_POLL
        age = time.time() - part.created_at
        return min(LAST_POLL, max(FIRST_POLL, age / POLLS_PER_AGE))

    def _collect(self, part: Part, target: Target, results: Iterable[LineResult]) -> None:
        try:
            self._collector.collect(part, target, results)
        except Refused as refused:
            raise ProviderAway(f"its results cannot be read: {refused}") from refused

    def _forget(self, part: Part, api: ProviderBatches) -> None:
        try:
            api.forget(part.provider_batch_id or "", part.provider_file_id)
        except (ProviderAway, Refused) as error:
            log.info("%s stays at its provider: %s", part.provider_batch_id, error)
