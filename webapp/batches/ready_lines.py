"""Lines that this process has claimed and not begun, by batch, and which of them begins next."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from webapp.batches.batch import ClaimedLine
from webapp.batches.tables import Kind

MAX_BYTES = 64 * 1024 * 1024  # of all requests; a batch without a line here may have more


@dataclass(frozen=True, slots=True)
class ReadyLine:
    """A claimed line with its request, and the targets of its route; none where it has no route."""

    line: ClaimedLine
    request: bytes
    targets: tuple[str, ...]


class ReadyLines:
    """Jobs come first, then batches take turns; a line that cannot begin holds up its like only."""

    def __init__(self) -> None:
        self._queues: dict[str, deque[ReadyLine]] = {}
        self._bytes = 0

    def add(self, ready: ReadyLine) -> None:
        self._queues.setdefault(ready.line.batch.id, deque()).append(ready)
        self._bytes += len(ready.request)

    def count(self, batch_id: str) -> int:
        return len(self._queues.get(batch_id, ()))

    @property
    def is_full(self) -> bool:
        return self._bytes >= MAX_BYTES

    def take(self, may_begin: Callable[[ReadyLine], bool]) -> ReadyLine | None:
        """The next line that may begin now."""
        refused: set[tuple[str, tuple[str, ...]]] = set()
        for batch_id in sorted(self._queues, key=self._comes_later):
            queue = self._queues[batch_id]
            for ready in queue:
                like = batch_id, ready.targets
                if like in refused:
                    continue
                if not may_begin(ready):
                    refused.add(like)
                    continue
                self._remove(ready)
                if left := self._queues.pop(batch_id, None):
                    self._queues[batch_id] = left  # its turn comes after the others'
                return ready
        return None

    def take_all(self, batch_id: str | None = None) -> Iterator[ReadyLine]:
        """Take out every line, of one batch or in all."""
        ids = [batch_id] if batch_id else list(self._queues)
        for one in ids:
            for ready in self._queues.pop(one, ()):
                self._bytes -= len(ready.request)
                yield ready

    def __iter__(self) -> Iterator[ReadyLine]:
        for queue in self._queues.values():
            yield from queue

    def _comes_later(self, batch_id: str) -> bool:
        return self._queues[batch_id][0].line.batch.kind is not Kind.JOB

    def _remove(self, ready: ReadyLine) -> None:
        queue = self._queues[ready.line.batch.id]
        queue.remove(ready)
        self._bytes -= len(ready.request)
        if not queue:
            del self._queues[ready.line.batch.id]
