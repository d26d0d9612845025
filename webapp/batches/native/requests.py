"""The lines of a batch as requests to one target, with what each can cost at the batch price."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import gevent

from webapp.admission.identity import Principal
from webapp.batches.batch import Batch, ClaimedLine
from webapp.batches.line_format import LineFormat
from webapp.batches.line_reading import read_lines, spans
from webapp.errors import ModelNotFound, UnsupportedParameter, WeirError
from webapp.llm.accounting import CostTracker
from webapp.llm.calls import BilledLine, BillingContext, ProviderCall
from webapp.llm.gateway import Gateway
from webapp.llm.messages import ModelRequest
from webapp.llm.routing import Route, Target
from webapp.storage.blobs import BlobMissing, BlobStore

BATCH_TIER = "batch"
UNTIERED = {"auto", "default"}  # names of a service tier that ask for none
LINES_IN_A_TURN = 20  # between two turns of the event loop


class KeyRevoked(Exception):
    """The key that is to pay does not work any more, or its tier is gone."""


@dataclass(frozen=True, slots=True)
class LineRequest:
    """A line's request, who pays for it, and what it can cost; or the error that it ends with."""

    line: ClaimedLine
    request: ModelRequest
    route: Route
    target: Target
    billing: BillingContext
    costs: CostTracker | None
    error: WeirError | None = None

    @property
    def call(self) -> ProviderCall:
        assert self.costs
        ceiling = self.costs.ceiling
        return ProviderCall(
            self.billing,
            route=self.route.name,
            provider=self.target.provider.name,
            model=self.target.model,
            attempt=1,
            input_tokens=ceiling.input_tokens,
            output_tokens=ceiling.output_tokens,
            nano=ceiling.nano,
            unpriced=ceiling.unpriced,
        )


class LineRequests:
    """`principal_of` gives the key that pays, as it is now; None where it does not work any more.

    Methods may raise StoreUnavailable.
    """

    def __init__(
        self,
        gateway: Gateway,
        line_format: LineFormat,
        blobs: BlobStore,
        principal_of: Callable[[int], Principal | None],
    ) -> None:
        self._gateway = gateway
        self._format = line_format
        self._blobs = blobs
        self._principal_of = principal_of

    def billing(self, batch: Batch, number: int, *, ended: bool = False) -> BillingContext:
        """Who pays for a line. Raises KeyRevoked, unless it has `ended`: what was reserved before
        is settled all the same."""
        line = BilledLine(batch.id, number, batch.cap_nano)
        principal = self._principal_of(batch.key_id)
        if principal is None:
            if not ended:
                raise KeyRevoked
            return BillingContext(batch.key_id, batch.request_id, batch.endpoint, batch=line)
        return principal.billing_of_line(batch.request_id, batch.endpoint, line)

    def of(
        self, batch: Batch, target: Target, lines: Iterable[ClaimedLine], *, ended: bool = False
    ) -> Iterator[LineRequest]:
        """The requests of these lines, which are in order. Raises BlobMissing and KeyRevoked; of
        lines that have `ended`, the requests are not known without their file."""
        turn = 0
        for span in spans(lines):
            try:
                texts = self._texts(batch, span)
            except BlobMissing:
                if not ended:
                    raise
                texts = [b'{"body": {}}'] * len(span)
            for line, text in zip(span, texts, strict=True):
                turn += 1
                if turn % LINES_IN_A_TURN == 0:
                    gevent.sleep(0)
                yield self._of(line, text, target, ended=ended)

    def target_of(self, line: ClaimedLine) -> Target:
        """The only target of a line's route. Raises BlobMissing, and ModelNotFound where there is
        none or several."""
        [text] = self._texts(line.batch, [line])
        request = self._format.model_request(line.batch.endpoint, self._format.decode(text)["body"])
        return self.target_of_model(request.model)

    def target_of_model(self, model: str | None) -> Target:
        """The only target of a model's route. Raises ModelNotFound where there is none, or
        several."""
        route = self._gateway.router.resolve(model)
        if len(route.targets) != 1:
            raise ModelNotFound(f"Model {route.name!r} has several targets.")
        return route.targets[0]

    def _texts(self, batch: Batch, span: list[ClaimedLine]) -> list[bytes]:
        assert batch.input_file_id, "Every batch has an input file."
        return [text for _, text in read_lines(self._blobs, batch.input_file_id, span)]

    def _of(self, line: ClaimedLine, text: bytes, target: Target, *, ended: bool) -> LineRequest:
        batch = line.batch
        billing = self.billing(batch, line.number, ended=ended)
        body = self._format.decode(text)["body"]
        request, route = ModelRequest({}, native=False), Route(target.name, (target,))
        try:
            request = self._format.model_request(batch.endpoint, body)
            if not ended:  # then the route may have another name
                route = Route(self._gateway.router.resolve(request.model).name, (target,))
            tier = request.body.get("service_tier")
            if tier is not None and tier not in UNTIERED:
                raise UnsupportedParameter("service_tier")
            costs = self._gateway.costs_at(request, route, billing, BATCH_TIER)
            request = costs.capped(target)
        except WeirError as error:
            return LineRequest(line, request, route, target, billing, None, error)
        return LineRequest(line, request, route, target, billing, costs)
