"""Runs a job: sends its request through the application, as the key that created it."""

from __future__ import annotations

import contextvars
import json
from typing import TYPE_CHECKING, Any

from werkzeug.datastructures import Headers
from werkzeug.test import EnvironBuilder, run_wsgi_app

from webapp import json_codec
from webapp.admission.deferred import ENVIRONMENT_KEY, DeferredRequest
from webapp.admission.identity import Identities
from webapp.batches.batch import ClaimedLine
from webapp.batches.batch_store import CANCELLED_ERROR, REVOKED_ERROR
from webapp.batches.job import JobRequest, result_of
from webapp.batches.line_runner import MAX_BUSY_WAIT, backoff
from webapp.batches.outcomes import Again, Ended, Outcome, Stopped
from webapp.errors import (
    ClientHungUp,
    ProviderBusy,
    ShuttingDown,
    StoreUnavailable,
    WeirError,
    snake_case,
)
from webapp.llm.calls import BilledLine, ClientConnection
from webapp.llm.routing import Router

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication

PREDICTIONS = ("/predict", "/batch-predict")
# Errors that pass by themselves, by name: tried again for as long as the job may wait. Beside
# these, those of status 500 and more are tried again a few times.
PASSING = {
    "BudgetReserved", "Overloaded", "ProviderBusy", "ProvidersUnavailable", "RateLimitExceeded",
}  # fmt: skip


class JobRunner:
    """Implements LineRunner. A run has the job's id as its request id."""

    def __init__(
        self, application: WSGIApplication, identities: Identities, router: Router
    ) -> None:
        self._application = application
        self._identities = identities
        self._router = router

    def targets(self, line: ClaimedLine, request: bytes) -> tuple[str, ...]:
        """The names of the targets of the model that the job names or means, in order."""
        if line.batch.endpoint in PREDICTIONS:
            return ()
        try:
            route = self._router.resolve(JobRequest.of_bytes(request).body.get("model"))
        except WeirError:
            return ()
        return tuple(target.name for target in route.targets)

    def run(self, line: ClaimedLine, request: bytes, client: ClientConnection) -> Outcome:
        """Run a job. Raises ShuttingDown and StoreUnavailable."""
        principal = self._identities.of_key_id(line.batch.key_id)
        if principal is None:
            return Stopped(REVOKED_ERROR)
        watched = _WatchedClient(client)
        billed = BilledLine(line.batch.id, line.number, line.batch.cap_nano)
        environment = _environment(line.batch.id, JobRequest.of_bytes(request))
        environment[ENVIRONMENT_KEY] = DeferredRequest(principal, billed, watched)
        # In an empty context, so that the request has contexts of its own: this greenlet may have
        # been started by another request.
        status, headers, body = contextvars.Context().run(self._send, environment)
        if isinstance(watched.error, ClientHungUp):
            return Stopped(CANCELLED_ERROR)
        if watched.error is not None:
            raise watched.error
        return _outcome(line, status, headers, body)

    def _send(self, environment: dict[str, Any]) -> tuple[int, Headers, bytes]:
        parts, status, headers = run_wsgi_app(self._application, environment, buffered=True)
        return int(status[:3]), headers, b"".join(parts)


class _WatchedClient:
    """The client of a run, which remembers why it had enough."""

    def __init__(self, client: ClientConnection) -> None:
        self._client = client
        self.error: WeirError | None = None

    def check(self) -> None:
        try:
            self._client.check()
        except (ClientHungUp, ShuttingDown) as error:
            self.error = error
            raise


def _environment(job_id: str, request: JobRequest) -> dict[str, Any]:
    headers = [("Content-Type", "application/json"), ("X-Request-ID", job_id)]
    if request.cache_control:
        headers.append(("Cache-Control", request.cache_control))
    body = json_codec.dumps(request.body)
    builder = EnvironBuilder(request.path, method="POST", headers=headers, data=body)
    try:
        return builder.get_environ()
    finally:
        builder.close()


def _outcome(line: ClaimedLine, status: int, headers: Headers, body: bytes) -> Outcome:
    result = result_of(status, body)
    if status < 400:
        cost = headers.get("X-Weir-Cost-USD", type=float)
        called = headers.get("X-Cache") in {"MISS", "BYPASS"}
        return Ended(status, result, line.batch.id, notes={"cost_usd": cost}, called=called)
    name = json.loads(body)["error"]
    if name == StoreUnavailable.__name__:
        raise StoreUnavailable
    ended = Ended(status, result, line.batch.id, snake_case(name))
    if name in PASSING:
        after = headers.get("Retry-After", backoff(line.tries), type=float)
        busy = ProviderBusy(retry_after=after) if name == ProviderBusy.__name__ else None
        return Again(min(MAX_BUSY_WAIT, after), ended, counts=False, reason=busy)
    if status >= 500:
        return Again(backoff(line.tries), ended, counts=True)
    return ended
