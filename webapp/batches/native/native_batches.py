"""Hands batches over to their providers and collects them, each step by one worker at a time.

The database says what was done and what is due, so a worker may be killed at any moment: another
one goes on. The provider is asked whether it has a batch before it is sent a second time.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping

from gevent.lock import BoundedSemaphore

from webapp.batches.batch import Batch
from webapp.batches.batch_store import BatchStore
from webapp.batches.line_reading import MISSING_ERROR
from webapp.batches.native.collection import AWAY_DELAY, Collection
from webapp.batches.native.collector import Collector
from webapp.batches.native.part_lines import LAST_LINE, PartLines
from webapp.batches.native.parts import LinesChanged, Part, PartStore
from webapp.batches.native.ports import ProviderAway, ProviderBatches
from webapp.batches.native.requests import LineRequests
from webapp.batches.native.reservation import Reservation
from webapp.batches.native.submission import Submission
from webapp.batches.tables import LineState, Mode, NativeState
from webapp.errors import StoreUnavailable, WeirError
from webapp.llm.ports import Provider
from webapp.llm.routing import Target
from webapp.metering.ledger import Ledger
from webapp.storage.blobs import BlobMissing
from webapp.storage.database import Database

log = logging.getLogger(__name__)

STORE_DELAY = 2.0
# Seconds that a provider is away, after a batch has expired, until nobody asks for it any more.
GIVE_UP_AFTER = 3_600.0
FAILED_DELAY = 60.0  # seconds after a step that failed for no known reason

UNKNOWN_OUTCOME = (
    "result_missing",
    "The provider did not say what became of this line; it may have been charged for.",
)
NOT_SUBMITTED = {NativeState.RESERVING, NativeState.PREPARED}

MakeBatches = Callable[[Provider], ProviderBatches | None]


class NativeBatches:
    """`providers` are by name; `make` gives the batches of one that has any."""

    def __init__(
        self,
        database: Database,
        batches: BatchStore,
        ledger: Ledger,
        parts: PartStore,
        lines: PartLines,
        requests: LineRequests,
        collector: Collector,
        providers: Mapping[str, Provider],
        make: MakeBatches,
    ) -> None:
        self._batches = batches
        self._ledger = ledger
        self._parts = parts
        self._lines = lines
        self._requests = requests
        self._collector = collector
        self._reservation = Reservation(
            database, batches, ledger, parts, lines, requests, collector
        )
        self._submission = Submission(batches, parts, lines, requests, collector, self._reservation)
        self._collection = Collection(parts, lines, collector)
        self._providers = providers
        self._make = make
        self._advancing = BoundedSemaphore()
        self._away_since: dict[str, float] = {}  # by token, monotonic

    def advance(self) -> float | None:
        """Take all steps that are due. Returns the seconds until the next one is due; None if
        there is none. Never raises."""
        if not self._advancing.acquire(blocking=False):
            return STORE_DELAY
        try:
            return self._advance()
        except StoreUnavailable:
            return STORE_DELAY
        except Exception:
            log.exception("The providers' batches could not be looked at")
            return FAILED_DELAY
        finally:
            self._advancing.release()

    def any_open(self) -> bool:
        """Whether steps are left, now or later. May raise StoreUnavailable."""
        return self._parts.any_open()

    def _advance(self) -> float | None:
        ready = self._parts.ready()
        if not ready and self._parts.seconds_until_due() is None:
            return None
        worker_id = self._ledger.worker_id
        self._parts.release(worker_id)  # what a failed step may have left
        for batch in ready:
            self._begin(batch)
        self._parts.stopped()
        while part := self._parts.take_due(worker_id):
            self._step(part)
        return self._parts.seconds_until_due()

    def _begin(self, batch: Batch) -> None:
        """Begin a part with the lines that wait. All of a batch go to the target of the first."""
        first = next(self._lines.between(batch, 1, LAST_LINE, LineState.WAITING), None)
        if first is None:
            return
        try:
            target = self._requests.target_of(first)
        except BlobMissing:
            self._batches.stop(batch.id, MISSING_ERROR)
        except WeirError as error:
            reason = f"Its target is not configured any more: {error.message}"
            self._batches.set_mode(batch.id, Mode.DIRECT, reason[:300])
        else:
            self._parts.add(batch, target.provider.name, target.model)

    def _step(self, part: Part) -> None:
        """Take the next step with a part, and say when the one after it is due."""
        try:
            delay = self._take_step(part)
        except LinesChanged:
            delay = 0.0  # another worker goes on with it, or it was stopped
        except StoreUnavailable:
            raise
        except Exception:
            log.exception("A step of %s, part %d, failed", part.batch.id, part.part)
            delay = FAILED_DELAY
        if delay is not None:
            try:
                self._parts.change(part, due_at=time.time() + delay, worker_id=None)
            except LinesChanged:
                log.warning("%s, part %d, was taken by another worker", part.batch.id, part.part)

    def _take_step(self, part: Part) -> float | None:
        """Returns the seconds until the next step; None where the part is gone."""
        try:
            delay = self._ask_provider(part)
        except ProviderAway as away:
            log.warning("Provider %s and %s: %s", part.provider, part.batch.id, away)
            return self._wait(part)
        self._away_since.pop(part.token, None)
        return delay

    def _ask_provider(self, part: Part) -> float | None:
        provider = self._providers.get(part.provider)
        api = self._make(provider) if provider else None
        if provider is None or api is None:
            if part.state not in NOT_SUBMITTED:
                raise ProviderAway("it is not configured any more")
            reason = f"Provider {part.provider!r} is not configured any more."
            self._batches.set_mode(part.batch.id, Mode.DIRECT, reason)
            return self._reservation.drop(part)
        target = Target(provider, part.model)
        match part.state:
            case NativeState.RESERVING:
                return self._reservation.reserve(part, api, target)
            case NativeState.PREPARED | NativeState.SUBMITTING:
                return self._submission.submit(part, api, target)
            case _:
                return self._collection.look(part, api, target)

    def _wait(self, part: Part) -> float | None:
        """Wait for a provider that is away. If it stays away after the batch has expired, book
        what it may have run at its ceiling, rather than hold the money and the batch for ever."""
        since = self._away_since.setdefault(part.token, time.monotonic())
        seconds = min(time.monotonic() - since, time.time() - part.batch.expires_at)
        if part.state in NOT_SUBMITTED or seconds < GIVE_UP_AFTER:
            return AWAY_DELAY
        log.error("%s, part %d, is given up at its ceiling", part.batch.id, part.part)
        self._collector.end_rest(part, UNKNOWN_OUTCOME, was_run=True)
        self._parts.end(part)
        del self._away_since[part.token]
        return None
