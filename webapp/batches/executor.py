"""Works on batches in this process: validates them, runs their lines, ends them.

Everything that it knows is in the database, so any number of processes may do so at once, and any
of them may be killed. What one has begun is its own while it sends heartbeats.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

import gevent
from gevent.event import Event

from webapp import money
from webapp.batches.batch import Batch, ClaimedLine, LineUpdate
from webapp.batches.batch_store import EXPIRED_ERROR, BatchStore
from webapp.batches.cpu_share import CpuShare
from webapp.batches.finalization import Finalization, result_line
from webapp.batches.line_reading import MISSING_ERROR, read_lines
from webapp.batches.lines import LineStore
from webapp.batches.outcomes import Again, Ended, LineRunner, Outcome, Stopped
from webapp.batches.pacing import CHAT, Pacing
from webapp.batches.ready_lines import ReadyLine, ReadyLines
from webapp.batches.tables import BatchState, Kind, LineState, Mode
from webapp.batches.validator import Validator
from webapp.errors import (
    ClientHungUp,
    InternalError,
    ShuttingDown,
    StoreUnavailable,
    WeirError,
    forget_traceback,
)
from webapp.llm.messages import Operation
from webapp.metering.ledger import Ledger
from webapp.storage.blobs import BlobMissing, BlobStore

log = logging.getLogger(__name__)

LOOK_INTERVAL = 1.0  # seconds between two looks for batches
AGAIN_INTERVAL = 2.0  # seconds until a batch is tried again of which nothing could be done
CHECK_INTERVAL = 5.0  # seconds between two looks for lines that this worker lost track of
MAX_READY = 32  # lines of a batch that are claimed before they can begin
WRITE_TIME = 0.06  # seconds after which a result has been written, mostly
MAX_TRIES = 3  # of a line that fails for other reasons than a provider that is busy
NATIVE, NATIVE_INTERVAL = "native", 5.0  # seconds in which a cancel is noticed
MAX_STEPS = 4  # validations and finalizations at once
MAX_UNWRITTEN = 500  # results that wait for the database
# Seconds before the end of the grace period in which lines that still run are given back.
GIVE_BACK_TIME = 2.0

OPERATIONS: dict[str, Operation] = {
    "/v1/embeddings": "embeddings",
    "/v1/responses": "responses",
}


class NativeSteps(Protocol):
    """The steps of batches that providers have."""

    def any_open(self) -> bool:
        """Whether a provider has lines of any batch, or is about to get them."""
        ...

    def advance(self) -> float | None:
        """Take the steps that are due. Returns the seconds until the next one. Never raises."""
        ...


class Executor:
    """Runs lines as greenlets, as many at a time as the targets' pace allows.

    `runners` are by kind. `most` bounds the lines that run at once in this process; `share` holds
    them back, too.
    """

    def __init__(
        self,
        batches: BatchStore,
        lines: LineStore,
        blobs: BlobStore,
        finalization: Finalization,
        validator: Validator,
        ledger: Ledger,
        runners: Mapping[Kind, LineRunner],
        native: NativeSteps,
        pacing: Pacing,
        most: int,
        share: CpuShare | None,
    ) -> None:
        self._batches = batches
        self._lines = lines
        self._blobs = blobs
        self._finalization = finalization
        self._validator = validator
        self._ledger = ledger
        self._runners = runners
        self._native = native
        self._native_due = 0.0
        self._pacing = pacing
        self._most = most
        self._share = share
        self._pause_left = 0.0
        self._ready = ReadyLines()
        self._running: dict[gevent.Greenlet, ClaimedLine] = {}
        self._steps: dict[str, gevent.Greenlet] = {}  # validation, finalization, by batch
        self._active: list[Batch] = []
        # When (monotonic) a batch is tried again of which nothing could be done here.
        self._again_at: dict[str, float] = {}
        self._lost_track: set[tuple[str, int]] = set()
        self._checked_at = 0.0
        self._looked_at = 0.0
        self._wake = Event()
        self._stopping = False
        self._working = False
        self._works_until = 0.0  # monotonic
        self._ends_at = float("inf")  # monotonic: when lines that run are given back

    def wake(self) -> None:
        """Look for batches now: there may be a new one."""
        self._looked_at = 0.0
        self._wake.set()

    def run_for(self, seconds: float) -> bool:
        """Work on all batches until none is left, or for so long.

        Returns whether one is left. Of several calls at once, one works.
        """
        if self._working:
            return False
        self._working = True
        self._works_until = time.monotonic() + seconds
        try:
            while not self._stopping and time.monotonic() < self._works_until:
                self._advance()
                if not (self._active or self._running or self._steps):
                    return False
                self._wake.wait(self._pause_left or LOOK_INTERVAL)
                self._wake.clear()
            return not self._stopping
        except StoreUnavailable:
            gevent.sleep(LOOK_INTERVAL)
            return not self._stopping
        finally:
            self._working = False

    def leave_to_others(self) -> None:
        """Let run_for() return soon: what has begun ends here, the rest is given back.

        Call it again and again: lines that are claimed meanwhile are given back by the next call.
        """
        self._works_until = 0.0
        self._give_back_ready()
        self._wake.set()

    def begin_nothing_more(self) -> None:
        """Let what runs end, and begin nothing: this process is about to stop."""
        if not self._stopping:
            self._stopping = True
            self._give_back_ready()
            self._wake.set()

    def stop(self, grace: float) -> None:
        """Begin nothing more, wait for what runs, and give the rest back within `grace` seconds."""
        self.begin_nothing_more()
        self._ends_at = time.monotonic() + max(0.0, grace - GIVE_BACK_TIME)
        gevent.killall([step for step in self._steps.values() if step], block=False)
        gevent.joinall([*self._running, *self._steps.values()], timeout=grace)
        try:
            self._batches.release(self._ledger.worker_id)
        except StoreUnavailable:
            log.warning("The database is unavailable; batches are freed when this worker is gone")

    def _advance(self) -> None:
        """Take every step that can be taken now."""
        if time.monotonic() - self._looked_at >= LOOK_INTERVAL:
            self._look()
        for batch in self._active:
            if batch.id not in self._steps and time.monotonic() >= self._again_at.get(batch.id, 0):
                self._advance_batch(batch)
        self._start_ready()

    def _look(self) -> None:
        """See which batches there are, and what has become of them."""
        self._active = self._batches.active()
        self._looked_at = time.monotonic()
        known = {batch.id for batch in self._active}
        self._again_at = {one: due for one, due in self._again_at.items() if one in known}
        for batch in self._active:
            if batch.stopped_by:
                self._give_back_ready(batch.id)
        native = any(batch.mode is Mode.NATIVE for batch in self._active)
        if native or (self._active and self._native.any_open()):
            self._advance_native()
        if time.monotonic() - self._checked_at >= CHECK_INTERVAL:
            self._checked_at = time.monotonic()
            self._give_back_unknown()

    def _give_back_unknown(self) -> None:
        """Give back lines that are this worker's and that it does not know of: the answer to a
        claim was lost. What was so at the last check, too, is no result on its way: these may wait
        for a database that is slow, and their lines have been paid for."""
        if self._ledger.unwritten_results:
            self._lost_track = set()
            return
        worker_id = self._ledger.worker_id
        own = self._lines.running_of(worker_id)
        known = {(one.line.batch.id, one.line.number) for one in self._ready}
        known |= {(line.batch.id, line.number) for line in self._running.values()}
        unknown = own - known
        self._lines.release(worker_id, self._lost_track & unknown)
        self._lost_track = unknown

    def _advance_batch(self, batch: Batch) -> None:
        if batch.state is BatchState.VALIDATING:
            self._take(batch, self._validator.validate)
        elif not batch.waiting:
            self._take(batch, self._finish)
        elif not batch.stopped_by and time.time() >= batch.expires_at:
            self._batches.stop(batch.id, EXPIRED_ERROR)
            self._looked_at = 0.0
        elif batch.stopped_by:
            if self._lines.stop(batch.id, batch.stopped_by["code"]):
                self._looked_at = 0.0
            else:
                self._try_again_later(batch)  # some lines still run
        elif batch.mode is not Mode.NATIVE:
            self._claim(batch)

    def _try_again_later(self, batch: Batch) -> None:
        self._again_at[batch.id] = time.monotonic() + AGAIN_INTERVAL

    def _advance_native(self) -> None:
        """Take the steps of native batches that are due, in a greenlet: an upload takes long."""
        if NATIVE not in self._steps and time.monotonic() >= self._native_due:
            greenlet = self._steps[NATIVE] = gevent.spawn(self._native.advance)
            greenlet.link(self._native_ended)

    def _native_ended(self, greenlet: gevent.Greenlet) -> None:
        del self._steps[NATIVE]
        due = greenlet.value if isinstance(greenlet.value, float) else NATIVE_INTERVAL
        self._native_due = time.monotonic() + min(due, NATIVE_INTERVAL)
        self.wake()

    def _take(self, batch: Batch, step: Callable[[Batch], None]) -> None:
        """Take a batch for this worker, and begin a step in a greenlet of its own."""
        if len(self._steps) >= MAX_STEPS:
            return
        taken = self._batches.take(batch.id, batch.state, self._ledger.worker_id)
        if taken is None:
            self._try_again_later(batch)
            return
        greenlet = self._steps[batch.id] = gevent.spawn(self._step, step, taken)
        greenlet.link(lambda _: self._step_ended(batch.id))

    def _step(self, step: Callable[[Batch], None], batch: Batch) -> None:
        try:
            step(batch)
        except StoreUnavailable:
            log.warning("A store is unavailable; batch %s goes on when it is back", batch.id)
            gevent.sleep(LOOK_INTERVAL)
        except Exception:
            log.exception("A step of batch %s failed", batch.id)
            gevent.sleep(LOOK_INTERVAL)
        finally:
            with contextlib.suppress(StoreUnavailable):  # then this worker may take it again
                self._batches.give_back(batch)

    def _step_ended(self, batch_id: str) -> None:
        del self._steps[batch_id]
        self.wake()

    def _finish(self, batch: Batch) -> None:
        moved: Batch | None = batch
        if batch.state is BatchState.IN_PROGRESS and batch.kind is Kind.BATCH:
            moved = self._batches.move(batch.id, BatchState.FINALIZING, of=[BatchState.IN_PROGRESS])
        if moved:
            self._finalization.finish(moved)

    def _claim(self, batch: Batch) -> None:
        """Claim lines of this batch, if few of them are ready."""
        own = self._ready.count(batch.id)
        if own >= MAX_READY // 2 or (own and self._ready.is_full):
            return
        if self._ledger.unwritten_results > MAX_UNWRITTEN:
            return
        claimed = self._lines.claim(batch, self._ledger.worker_id, MAX_READY)
        if not claimed:
            self._try_again_later(batch)
            return
        left = {line.number: line for line in claimed}
        try:
            for line, request in self._requests(batch, claimed):
                del left[line.number]
                self._make_ready(line, request)
        except StoreUnavailable:
            pass  # they are tried again
        except BlobMissing:
            self._stop_batch(batch, MISSING_ERROR)
        finally:
            for line in left.values():
                self._give_back(line, LOOK_INTERVAL, counts=False)
            if self._stopping:
                self._give_back_ready()

    def _requests(
        self, batch: Batch, claimed: Sequence[ClaimedLine]
    ) -> Iterable[tuple[ClaimedLine, bytes]]:
        """The lines with their requests. Raises BlobMissing and StoreUnavailable."""
        if batch.input_file_id is None:
            return [(line, line.request or b"") for line in claimed]
        return read_lines(self._blobs, batch.input_file_id, claimed)

    def _make_ready(self, line: ClaimedLine, request: bytes) -> None:
        try:
            targets = self._runners[line.batch.kind].targets(line, request)
        except Exception:
            log.exception("Line %d of %s cannot be read", line.number, line.batch.id)
            targets = ()  # running it says what is wrong
        self._ready.add(ReadyLine(line, request, targets))

    def _start_ready(self) -> None:
        self._pause_left = 0.0
        while not self._stopping and len(self._running) < self._most:
            self._pause_left = self._share.pause() if self._share else 0.0
            if self._pause_left:
                return
            ready = self._ready.take(lambda one: self._target(one) is not None)
            if ready is None:
                return
            if self._share:
                self._share.began()
            self._start(ready, self._target(ready) or "")

    def _target(self, ready: ReadyLine) -> str | None:
        """The target that the line may go to now; empty where it goes to none."""
        if not ready.targets:
            return ""
        batch = ready.line.batch
        operation = OPERATIONS.get(batch.endpoint, CHAT)
        return self._pacing.choose(ready.targets, operation, f"key-{batch.key_id}-batches")

    def _start(self, ready: ReadyLine, target: str) -> None:
        if target:
            self._pacing.started(target)
        greenlet = gevent.spawn(self._run, ready, target)
        self._running[greenlet] = ready.line
        greenlet.link(self._ended)

    def _ended(self, greenlet: gevent.Greenlet) -> None:
        batch_id = self._running.pop(greenlet).batch.id
        self._wake.set()
        running = any(line.batch.id == batch_id for line in self._running.values())
        if not running and not self._ready.count(batch_id):
            # It may have been the last one: look when its result has been written.
            gevent.spawn_later(WRITE_TIME, self.wake)

    def _run(self, ready: ReadyLine, target: str) -> None:
        line = ready.line
        error: WeirError | None = None
        called = False
        try:
            client = _LineClient(self, line)
            outcome = self._runners[line.batch.kind].run(line, ready.request, client)
        except (ShuttingDown, StoreUnavailable) as known:
            forget_traceback(known)
            self._give_back(line, 0.0 if self._stopping else LOOK_INTERVAL, counts=False)
        except Exception:
            log.exception("Line %d of %s failed", line.number, line.batch.id)
            error = InternalError()
            self._give_back(line, LOOK_INTERVAL, counts=True)
        else:
            error = self._came_out(line, outcome)
            called = isinstance(outcome, Ended) and outcome.called
        finally:
            if target:
                self._pacing.ended(target, error, called=called)

    def _came_out(self, line: ClaimedLine, outcome: Outcome) -> WeirError | None:
        """Write what became of a line. Returns the error that its target is to be spared for."""
        if isinstance(outcome, Stopped):
            self._give_back(line, 0.0, counts=False)
            self._stop_batch(line.batch, outcome.error)
            return None
        if isinstance(outcome, Again):
            if outcome.counts and line.tries >= MAX_TRIES:
                self._end(line, outcome.ended)
            else:
                self._give_back(line, outcome.after, counts=outcome.counts)
            return outcome.reason
        self._end(line, outcome)
        return None

    def _stop_batch(self, batch: Batch, error: dict[str, str]) -> None:
        self._give_back_ready(batch.id)
        with contextlib.suppress(StoreUnavailable):  # the next line says so again
            self._batches.stop(batch.id, error)
        self._looked_at = 0.0

    def _end(self, line: ClaimedLine, ended: Ended) -> None:
        notes = ended.notes | ({"lost_workers": line.lost} if line.lost else {})
        result = ended.body
        if line.batch.kind is Kind.BATCH:
            result = result_line(
                line.batch,
                line.number,
                line.custom_id,
                ended.status,
                ended.body,
                ended.request_id,
                notes,
            )
        state = LineState.FAILED if ended.error else LineState.SUCCEEDED
        cost_nano = round((ended.notes.get("cost_usd") or 0.0) * money.NANO)
        self._ledger.write_result(LineUpdate(line, state, result, ended.error, cost_nano))

    def _give_back(self, line: ClaimedLine, after: float, *, counts: bool) -> None:
        self._ledger.write_result(
            LineUpdate(
                line,
                LineState.WAITING,
                tries=line.tries if counts else line.tries - 1,
                not_before=time.time() + after if after else 0.0,
            )
        )

    def _give_back_ready(self, batch_id: str | None = None) -> None:
        """Give back what has not begun, of a batch or in all."""
        for ready in self._ready.take_all(batch_id):
            self._give_back(ready.line, 0.0, counts=False)

    def check(self, line: ClaimedLine) -> None:
        """Raise ShuttingDown when lines must end, and ClientHungUp for a job that is cancelled."""
        if time.monotonic() >= self._ends_at:
            raise ShuttingDown
        if line.batch.kind is Kind.JOB and any(
            batch.id == line.batch.id and batch.state is BatchState.CANCELLING
            for batch in self._active
        ):
            raise ClientHungUp


class _LineClient:
    """Stands for the client of a line that runs."""

    def __init__(self, executor: Executor, line: ClaimedLine) -> None:
        self._executor = executor
        self._line = line

    def check(self) -> None:
        self._executor.check(self._line)
