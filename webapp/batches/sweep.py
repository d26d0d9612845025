"""What nobody else does: frees lines of lost workers, cancels batches of revoked keys."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from webapp.batches.batch_store import BatchStore
from webapp.batches.lines import LineStore
from webapp.observability.gauges import BatchFigures

log = logging.getLogger(__name__)

INTERVAL = 5.0  # seconds
LOG_INTERVAL = 60.0  # seconds


class Sweep:
    """Runs in every process; doing it twice does no harm.

    With `figures`, the log says every minute how many lines wait, for scalers that read it.
    """

    def __init__(
        self,
        batches: BatchStore,
        lines: LineStore,
        *,
        figures: Callable[[], BatchFigures] | None,
    ) -> None:
        self._batches = batches
        self._lines = lines
        self._next_at = 0.0
        self._figures = figures
        self._log_at = 0.0

    def tick(self) -> None:
        """Sweep, if due. May raise StoreUnavailable."""
        if time.monotonic() < self._next_at:
            return
        self._next_at = time.monotonic() + INTERVAL
        if self._figures and time.monotonic() >= self._log_at:
            self._log_at = time.monotonic() + LOG_INTERVAL
            found = self._figures()
            oldest = round(found.oldest_waiting, 1)
            said = {"waiting_lines": found.waiting_lines, "oldest_waiting_seconds": oldest}
            log.info("Lines of batches that wait", extra=said)
        if not self._batches.any_active():
            return
        if lost := self._lines.free_lost():
            log.warning("%d lines of batches were freed: their workers are gone", lost)
        for batch_id in self._batches.cancel_revoked():
            log.warning("%s was cancelled: its key does not work any more", batch_id)
