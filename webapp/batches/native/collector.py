"""Settles what a provider says of the lines of its batch, and writes their results."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

from webapp import money
from webapp.batches.batch import ClaimedLine, LineUpdate
from webapp.batches.finalization import result_line
from webapp.batches.line_format import LineFormat
from webapp.batches.lines import write_updates
from webapp.batches.native.part_lines import Ceiling, PartLines
from webapp.batches.native.parts import Part
from webapp.batches.native.ports import LineResult, error_code
from webapp.batches.native.requests import BATCH_TIER, LineRequest, LineRequests
from webapp.batches.tables import LineState
from webapp.errors import WeirError
from webapp.llm.accounting import MAX_MESSAGE_LENGTH, MAX_MODEL_LENGTH, storable
from webapp.llm.calls import BillingContext, CallState, Settlement
from webapp.llm.messages import Answer, Usage
from webapp.llm.routing import Target
from webapp.metering.ledger import Ledger
from webapp.providers.answers import read_answer

log = logging.getLogger(__name__)

WRITTEN_TOGETHER = 200  # lines of one transaction

_Settlements = dict[int, tuple[BillingContext, Settlement | None]]


class Collector:
    """What it has written once stays: a second time changes nothing. Methods may raise
    StoreUnavailable."""

    def __init__(
        self,
        ledger: Ledger,
        lines: PartLines,
        requests: LineRequests,
        line_format: LineFormat,
        redact: Callable[[str], str],
    ) -> None:
        self._ledger = ledger
        self._lines = lines
        self._requests = requests
        self._format = line_format
        self._redact = redact

    def collect(self, part: Part, target: Target, results: Iterable[LineResult]) -> None:
        """Settle the lines with these results. Raises what `results` raises."""
        unknown = 0
        found: dict[int, LineResult] = {}
        for result in results:
            number = part.number(result.custom_id)
            if number is None:
                unknown += 1
                continue
            found[number] = result
            if len(found) >= WRITTEN_TOGETHER:
                self._write(part, target, found)
                found = {}
        self._write(part, target, found)
        if unknown:
            log.warning(
                "%d results of %s are of no line of %s",
                unknown, part.provider_batch_id, part.batch.id,
            )  # fmt: skip

    def end_rest(self, part: Part, outcome: tuple[str, str], *, was_run: bool) -> None:
        """End the lines without a result: at their ceiling if they may have been run."""
        lines = self._lines.between(part.batch, part.first_line, part.last_line, LineState.RUNNING)
        for chunk in _chunks(lines):
            ceilings = self._lines.ceilings(part, [line.number for line in chunk])
            settlements: _Settlements = {}
            updates = []
            for line in chunk:
                settlement = self._not_run(outcome)
                if was_run:
                    ceiling = ceilings.get(line.number, Ceiling())
                    settlement = _at_ceiling(ceiling, "ResultMissing")
                billing = self._requests.billing(part.batch, line.number, ended=True)
                settlements[part.call_id(line.number)] = billing, settlement
                updates.append(self._without_response(line, settlement, *outcome))
            self._settle(settlements, updates)

    def fail(self, part: Part, failed: Iterable[tuple[ClaimedLine, WeirError]]) -> list[LineUpdate]:
        """How lines end that cannot be handed over, as they would if they were run here."""
        updates = []
        for line, error in failed:
            status, body = self._format.error(error)
            text = json.dumps(body).encode()
            code = str(body["error"]["code"])
            updates.append(_update(line, status, text, "", code, 0))
        return updates

    def _write(self, part: Part, target: Target, found: dict[int, LineResult]) -> None:
        lines = self._lines.numbered(part.batch, found)
        ceilings = self._lines.ceilings(part, found)
        settlements: _Settlements = {}
        updates = []
        for one in self._requests.of(part.batch, target, lines, ended=True):
            ceiling = ceilings.get(one.line.number, Ceiling())
            settlement, update = self._ended(one, found[one.line.number], ceiling)
            settlements[part.call_id(one.line.number)] = one.billing, settlement
            updates.append(update)
        self._settle(settlements, updates)

    def _settle(self, settlements: _Settlements, updates: list[LineUpdate]) -> None:
        if updates:
            also = lambda connection: write_updates(connection, updates)  # noqa: E731
            self._ledger.settle_at_once(settlements, also)

    def _ended(
        self, one: LineRequest, result: LineResult, ceiling: Ceiling
    ) -> tuple[Settlement, LineUpdate]:
        if result.error:
            settlement = self._not_run(result.error)
            return settlement, self._without_response(one.line, settlement, *result.error)
        if not result.charged:
            return self._refused(one, result)
        try:
            answer = read_answer(
                result.body.decode("utf-8", "surrogatepass"), one.request, one.target.model,
                one.target.provider.name,
            )  # fmt: skip
        except (WeirError, ValueError) as error:
            name = error.name if isinstance(error, WeirError) else "ProviderFailed"
            settlement = _at_ceiling(ceiling, name)
            update = _update(
                one.line, 502, result.body, result.request_id, "provider_error", settlement.nano
            )
            return settlement, update
        settlement = _settled(one, answer, ceiling)
        return settlement, _update(
            one.line, result.status, result.body, result.request_id, None, settlement.nano
        )

    def _refused(self, one: LineRequest, result: LineResult) -> tuple[Settlement, LineUpdate]:
        code, message = error_code(_error(result.body))
        name = "ProviderRefusedRequest" if result.status < 500 else "ProviderFailed"
        settlement = self._failed(name, message, result.status)
        return settlement, _update(
            one.line, result.status, result.body, result.request_id, code, settlement.nano
        )

    def _not_run(self, outcome: tuple[str, str]) -> Settlement:
        return self._failed("NotRun", outcome[1], None)

    def _failed(self, name: str, message: str, status: int | None) -> Settlement:
        told = storable(self._redact(message), MAX_MESSAGE_LENGTH)
        return Settlement(
            CallState.FAILED, Usage(0, 0), 0, name, provider_status=status, provider_message=told
        )

    def _without_response(
        self, line: ClaimedLine, settlement: Settlement, code: str, message: str
    ) -> LineUpdate:
        name = f"batch_req_{line.batch.id.removeprefix('batch_')}_{line.number}"
        error = {"code": code, "message": self._redact(message)}
        text = {"id": name, "custom_id": line.custom_id, "response": None, "error": error}
        return LineUpdate(
            line, LineState.FAILED, json.dumps(text).encode(), code, settlement.nano or 0
        )


def _settled(one: LineRequest, answer: Answer, ceiling: Ceiling) -> Settlement:
    """Settled at the batch price, whatever tier the answer names; at the ceiling where that price
    is not known any more, or not for all that was used."""
    usage = replace(answer.usage, service_tier=BATCH_TIER)
    nano: int | None = None
    if one.costs:
        costs = one.costs.of(one.target)
        if usage.estimated and not usage.input_reported:
            usage = replace(usage, input_tokens=ceiling.input_tokens)
        nano = costs.of_estimate(usage) if usage.estimated else costs.of_reported(usage)
    if nano is None:
        nano = ceiling.nano
    return Settlement(
        CallState.SETTLED, usage, nano, model=storable(answer.model, MAX_MODEL_LENGTH)
    )


def _at_ceiling(ceiling: Ceiling, name: str) -> Settlement:
    """The provider may have been paid, and does not say how much."""
    usage = Usage(
        ceiling.input_tokens, ceiling.output_tokens, estimated=True, service_tier=BATCH_TIER
    )
    return Settlement(CallState.CUT, usage, ceiling.nano, name)


def _update(
    line: ClaimedLine,
    status: int,
    body: bytes,
    request_id: str,
    code: str | None,
    nano: int | None,
) -> LineUpdate:
    notes = {"cost_usd": money.to_usd(nano), "mode": "native"}
    result = result_line(line.batch, line.number, line.custom_id, status, body, request_id, notes)
    state = LineState.FAILED if code else LineState.SUCCEEDED
    return LineUpdate(line, state, result, code, nano or 0)


def _error(body: bytes) -> Any:
    """The error of a response, which may be anything."""
    try:
        return json.loads(body)["error"]
    except (ValueError, LookupError, TypeError):
        return None


def _chunks(lines: Iterator[ClaimedLine]) -> Iterator[list[ClaimedLine]]:
    return iter(lambda: list(islice(lines, WRITTEN_TOGETHER)), [])
