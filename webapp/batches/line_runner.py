"""Runs a line of a batch through the gateway, as a request of its key."""

from __future__ import annotations

import json
import math
import time
import uuid
from collections.abc import Callable
from typing import Any

from webapp.admission.identity import Identities, Principal
from webapp.batches.batch import ClaimedLine
from webapp.batches.batch_store import REVOKED_ERROR
from webapp.batches.line_format import LineFormat
from webapp.batches.outcomes import Again, Ended, Outcome, Stopped
from webapp.errors import (
    BudgetExceeded,
    BudgetReserved,
    InternalError,
    Overloaded,
    ProviderBusy,
    ProviderError,
    ProvidersUnavailable,
    ShuttingDown,
    StoreUnavailable,
    WeirError,
    forget_traceback,
)
from webapp.llm.calls import BilledLine, CacheUse, CallOptions, ClientConnection, Settlement
from webapp.llm.gateway import Gateway
from webapp.llm.messages import FinalAnswer
from webapp.llm.routing import Route

PRINCIPAL_TTL = 4.0  # seconds: a revoked key stops everywhere within 5 s
MAX_BUSY_WAIT = 60.0  # seconds


class GatewayLineRunner:
    """Implements LineRunner for the lines of batches.

    `deadline` (seconds) is that of a line; `refused` is told of each target that answers 429.
    """

    def __init__(
        self,
        gateway: Gateway,
        identities: Identities,
        line_format: LineFormat,
        *,
        deadline: float,
        own_cache: bool,
        refused: Callable[[str, float | None], object] = lambda *_: None,
    ) -> None:
        self._gateway = gateway
        self._identities = identities
        self._format = line_format
        self._deadline = deadline
        self._own_cache = own_cache
        self._refused = refused
        self._principals: dict[int, tuple[float, Principal | None]] = {}

    def targets(self, line: ClaimedLine, request: bytes) -> tuple[str, ...]:
        """The names of the targets of the line's route, in order; none if it has no route."""
        route = self._route(self._format.decode(request)["body"].get("model"))
        return tuple(target.name for target in route.targets) if route else ()

    def run(self, line: ClaimedLine, request: bytes, client: ClientConnection) -> Outcome:
        """Run a line. Raises ShuttingDown and StoreUnavailable."""
        principal = self.principal(line.batch.key_id)
        if principal is None:
            return Stopped(REVOKED_ERROR)
        request_id = str(uuid.uuid4())
        try:
            final = self._answer(principal, line, request, client, request_id)
        except (ShuttingDown, StoreUnavailable):
            raise
        except WeirError as error:
            forget_traceback(error)
            return self._failed(line, error, request_id)
        notes: dict[str, Any] = {"cost_usd": final.cost_usd, "cache": str(final.metadata.cache)}
        body = final.answer.body.encode()
        return Ended(200, body, request_id, notes=notes, called=not final.is_free)

    def principal(self, key_id: int) -> Principal | None:
        """The key as it is now; None where it does not work any more."""
        now = time.monotonic()
        found, principal = self._principals.get(key_id, (-math.inf, None))
        if now - found >= PRINCIPAL_TTL:
            principal = self._identities.of_key_id(key_id)
            self._principals[key_id] = now, principal
        return principal

    def check_model(self, principal: Principal, model: str | None) -> None:
        """Raise ModelNotFound or ModelNotAllowed where a line may not name this model."""
        self._gateway.check_model(model, principal.allowance.allows_model)

    def _route(self, model: str | None) -> Route | None:
        try:
            return self._gateway.router.resolve(model)
        except WeirError:
            return None

    def _answer(
        self,
        principal: Principal,
        line: ClaimedLine,
        request: bytes,
        client: ClientConnection,
        request_id: str,
    ) -> FinalAnswer:
        body = self._format.decode(request)["body"]
        model_request = self._format.model_request(line.batch.endpoint, body)
        private = self._own_cache or principal.allowance.own_cache
        options = CallOptions(
            client=client,
            billing=principal.billing_of_line(
                request_id,
                line.batch.endpoint,
                BilledLine(line.batch.id, line.number, line.batch.cap_nano),
            ),
            deadline=time.monotonic() + self._deadline,
            cache=CacheUse(principal.bucket if private else None),
            allows_model=principal.allowance.allows_model,
            failed=self._call_failed,
        )
        return self._gateway.answer(model_request, options)

    def _call_failed(self, target: str, settlement: Settlement) -> None:
        if settlement.error == ProviderBusy.__name__:
            self._refused(target, None)

    def _failed(self, line: ClaimedLine, error: WeirError, request_id: str) -> Outcome:
        status, body = self._format.error(error)
        ended = Ended(status, json.dumps(body).encode(), request_id, body["error"]["code"])
        if isinstance(error, BudgetReserved | Overloaded):
            return Again(min(MAX_BUSY_WAIT, error.retry_after or 1.0), ended, counts=False)
        if isinstance(error, BudgetExceeded):
            return Stopped({"code": budget_code(error), "message": error.message})
        if isinstance(error, ProviderBusy | ProvidersUnavailable):
            after = error.retry_after or backoff(line.tries)
            return Again(min(MAX_BUSY_WAIT, after), ended, counts=False, reason=error)
        if isinstance(error, ProviderError) and error.try_next:
            return Again(backoff(line.tries), ended, counts=True, reason=error)
        if isinstance(error, InternalError):
            return Again(backoff(line.tries), ended, counts=True)
        return ended


def backoff(tries: int) -> float:
    """Seconds before a further try."""
    return float(min(60, 2 ** (tries - 1)))


def budget_code(error: BudgetExceeded) -> str:
    """The code of the lines that are not begun because of this error."""
    of_batch = (error.details or {}).get("limit") == "weir_cost_cap_usd"
    return "cost_cap_reached" if of_batch else "budget_exceeded"
