"""Reserves the ceilings of the lines of a part before its provider gets it, or gives them back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import TypeVar

from sqlalchemy import Connection

from webapp.batches.batch import ClaimedLine, LineUpdate
from webapp.batches.batch_store import REVOKED_ERROR, BatchStore
from webapp.batches.line_reading import MISSING_ERROR
from webapp.batches.line_runner import budget_code
from webapp.batches.lines import write_updates
from webapp.batches.native.collector import Collector
from webapp.batches.native.part_lines import PartLines, give_lines_back, take_lines
from webapp.batches.native.parts import LinesChanged, Part, PartStore
from webapp.batches.native.ports import ProviderBatches
from webapp.batches.native.requests import KeyRevoked, LineRequest, LineRequests
from webapp.batches.tables import LineState, Mode, NativeState
from webapp.errors import (
    BudgetExceeded,
    BudgetReserved,
    ModelNotPriced,
    WeirError,
    forget_traceback,
)
from webapp.llm.calls import ProviderCall
from webapp.llm.routing import Target
from webapp.metering.ledger import Ledger
from webapp.storage.blobs import BlobMissing
from webapp.storage.database import Database

WRITTEN_TOGETHER = 500  # lines of one transaction, which locks the key's budgets
BUDGET_DELAY = 30.0  # seconds until a budget that others have reserved is asked again

Item = TypeVar("Item")


class Reservation:
    """Steps return the seconds until the next one; None where the part is gone. They may raise
    LinesChanged and StoreUnavailable."""

    def __init__(
        self,
        database: Database,
        batches: BatchStore,
        ledger: Ledger,
        parts: PartStore,
        lines: PartLines,
        requests: LineRequests,
        collector: Collector,
    ) -> None:
        self._database = database
        self._batches = batches
        self._ledger = ledger
        self._parts = parts
        self._lines = lines
        self._requests = requests
        self._collector = collector

    def reserve(self, part: Part, api: ProviderBatches, target: Target) -> float | None:
        """Reserve the ceilings of a part's lines, of all or of none."""
        if part.is_stopped:
            return self.drop(part)
        self._undo(part)
        try:
            calls, failed, last_line = self._measure(part, api, target)
            self._check(part, calls)
        except KeyRevoked:
            self._batches.stop(part.batch.id, REVOKED_ERROR)
            return self.drop(part)
        except BlobMissing:
            self._batches.stop(part.batch.id, MISSING_ERROR)
            return self.drop(part)
        except (BudgetExceeded, ModelNotPriced) as refusal:
            return self._refused_by_budget(part, refusal)
        first_call = self._ledger.call_ids(last_line - part.first_line + 1)
        self._parts.change(part, first_call=first_call, last_line=last_line)
        part = replace(part, first_call=first_call, last_line=last_line)
        try:
            for numbers in _in_groups(list(calls)):
                self._reserve_some(part, {number: calls[number] for number in numbers})
            self._end_failed(part, failed)
        except (BudgetExceeded, BudgetReserved, ModelNotPriced) as refusal:
            return self._refused_by_budget(part, refusal)
        except LinesChanged:
            return self.drop(part)
        if not calls:
            self._parts.end(part)
            return None
        self._parts.change(part, state=NativeState.PREPARED)
        return 0.0

    def _check(self, part: Part, calls: Mapping[int, ProviderCall]) -> None:
        """Raise the error of a part that does not fit the budgets even when nothing else runs:
        none of its lines is to wait for the others."""
        nanos = [call.nano for call in calls.values()]
        unpriced = next((call.unpriced for call in calls.values() if call.unpriced), None)
        total = None if unpriced else sum(nano or 0 for nano in nanos)
        self._ledger.check(self._requests.billing(part.batch, part.first_line), total, unpriced)

    def _measure(
        self, part: Part, api: ProviderBatches, target: Target
    ) -> tuple[dict[int, ProviderCall], list[tuple[ClaimedLine, WeirError]], int]:
        """The calls of as many lines as the provider takes at once, by number; the lines that it
        cannot be asked, and the number of the last line."""
        batch, size, last_line = part.batch, 0, part.first_line
        calls: dict[int, ProviderCall] = {}
        failed: list[tuple[ClaimedLine, WeirError]] = []  # without their requests: all may fail
        lines = self._lines.between(batch, part.first_line, part.last_line, LineState.WAITING)
        for one in self._requests.of(batch, target, lines):
            number = one.line.number
            try:
                text = line_text(part, api, one)
            except WeirError as error:
                forget_traceback(error)
                failed.append((one.line, error))
                last_line = number
                continue
            size += len(text)
            if calls and (len(calls) >= api.max_lines or size > api.max_bytes):
                break
            calls[number] = one.call
            last_line = number
        return calls, failed, last_line

    def _reserve_some(self, part: Part, calls: dict[int, ProviderCall]) -> None:
        self._ledger.reserve_all(
            {part.call_id(number): call for number, call in calls.items()},
            partial(take_lines, part, list(calls)),
        )

    def _end_failed(self, part: Part, failed: list[tuple[ClaimedLine, WeirError]]) -> None:
        """End the lines that cannot be handed over."""
        for some in _in_groups(failed):
            updates = self._collector.fail(part, some)
            self._database.write(partial(_take_and_end, part, updates))

    def _refused_by_budget(self, part: Part, refusal: WeirError) -> float | None:
        """A batch that chose this way itself is worked on directly; another one waits for what
        others have reserved, and else ends."""
        batch = part.batch
        self._undo(part)
        if (batch.metadata or {}).get("weir_mode") == Mode.AUTO:
            reason = f"Its ceiling did not fit when it was reserved: {refusal.message}"
            self._batches.set_mode(batch.id, Mode.DIRECT, reason[:300])
        elif isinstance(refusal, BudgetReserved):
            return BUDGET_DELAY
        else:
            code = "model_not_priced"
            if isinstance(refusal, BudgetExceeded):
                code = budget_code(refusal)
            self._batches.stop(batch.id, {"code": code, "message": refusal.message})
        self._parts.delete(part)
        return None

    def drop(self, part: Part) -> float | None:
        """The last step of a part that the provider did not get: its lines wait again."""
        self._undo(part)
        self._parts.delete(part)
        return None

    def _undo(self, part: Part) -> None:
        """Give back all lines of a part that the provider did not get, and what they reserved."""
        if part.first_call is None:
            return
        for some in _in_groups(self._lines.reserved(part)):
            billing = self._requests.billing(part.batch, some[0], ended=True)
            self._ledger.settle_at_once(
                {part.call_id(number): (billing, None) for number in some},
                partial(give_lines_back, part, some),
            )


def line_text(part: Part, api: ProviderBatches, one: LineRequest) -> bytes:
    """Raises WeirError where the provider cannot be asked that."""
    if one.error:
        raise one.error
    return api.line(
        part.custom_id(one.line.number), part.batch.endpoint, one.request, one.target.model
    )


def _take_and_end(part: Part, updates: Sequence[LineUpdate], connection: Connection) -> None:
    take_lines(part, [one.line.number for one in updates], connection)
    write_updates(connection, updates)


def _in_groups(items: Iterable[Item]) -> Iterator[list[Item]]:
    """The items in lists of as many as one transaction writes."""
    remaining = iter(items)
    return iter(lambda: list(islice(remaining, WRITTEN_TOGETHER)), [])
