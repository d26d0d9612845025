"""All errors that clients see, as one tree; the class name is the public name of the error.

WeirError                       status
├── MalformedRequest              400  not JSON, not UTF-8, two credentials
├── UnsupportedParameter          400  not supported by the provider of this model
├── NotAuthenticated              401  a bad Authorization header
├── NotAllowed                    403  no credential, or a bad X-API-Key
├── ModelNotAllowed               403  this key is not allowed to use this model
├── AddressNotAllowed             403  this key is not allowed from this network
├── ModelNotPriced                403  the model has no price, and the key has a budget
├── NotFound                      404
│   └── ModelNotFound             404
├── MethodNotAllowed              405
├── BodyTooSlow                   408  the body did not arrive in time
├── Conflict                      409  conflicts with an existing object or the present state
├── IdempotencyInProgress         409  the first request with this key is still running
├── PayloadTooLarge               413
├── StorageQuotaExceeded          413  the files of this key would take too many bytes
├── UnsupportedMediaType          415
├── ValidationError               422  details name each field (400 if not native)
├── IdempotencyMismatch           422  this key was used with another body
├── RateLimitExceeded             429
├── BudgetExceeded                429  too little of the budget is left for this call
├── BudgetReserved                429  ... because running calls have reserved a part of it
├── SessionLimitExceeded          429  the session of an agent has used up a limit
├── ClientHungUp                  499  the client disconnected; only in the log
├── InternalError                 500
├── ProviderError
│   ├── ProviderRefusedRequest    400  the provider rejected the request itself
│   ├── ProviderFailed            502  5xx, invalid answer, broken connection, unreachable
│   │   └── ProviderRefusedWeir   502  Weir's own credentials or quota
│   ├── ProviderBusy              503  the provider's 429
│   ├── ProvidersUnavailable      503  the circuits of all targets are open
│   └── ProviderTimedOut          504
├── StoreUnavailable              503  the database is unavailable
├── Overloaded                    503  running requests hold all of something that is bounded
└── ShuttingDown                  503
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Self


class WeirError(Exception):
    """An error that clients see: `status`, a name (the class's) and a safe message.

    `details` (JSON-ready) helps the client to react; `retry_after` is in seconds;
    `attempts` counts the provider calls before it; `should_retry` overrides the clients' default
    for this status. `provider_status` and `provider_message` are what the provider answered, for
    the operator.
    """

    status = 500
    attempts = 0
    provider_status: int | None = None
    provider_message: str | None = None
    should_retry: bool | None = None
    message = "Internal error. Search the log for the request id."

    def __init__(
        self,
        message: str | None = None,
        *,
        details: Mapping[str, Any] | None = None,
        retry_after: float | None = None,
    ) -> None:
        self.message = message or self.message
        self.details = details
        self.retry_after = retry_after
        super().__init__(self.message)

    @property
    def name(self) -> str:
        return type(self).__name__


class MalformedRequest(WeirError):
    status = 400


class UnsupportedParameter(WeirError):
    """`parameter` is its dotted path in the body."""

    status = 400

    def __init__(self, parameter: str, message: str | None = None) -> None:
        self.parameter = parameter
        super().__init__(
            message or f"Parameter {parameter!r} is not supported by the provider of this model.",
            details={parameter: ["Not supported by the provider of this model."]},
        )


class NotAuthenticated(WeirError):
    status = 401


class NotAllowed(WeirError):
    status = 403


class ModelNotAllowed(WeirError):
    status = 403


class AddressNotAllowed(WeirError):
    status = 403
    message = "This API key is not allowed from this IP address."


class ModelNotPriced(WeirError):
    status = 403


class NotFound(WeirError):
    status = 404
    message = "Not found. See /docs for the endpoints."


class ModelNotFound(NotFound):
    message = "Model not found. See GET /v1/models."


class MethodNotAllowed(WeirError):
    status = 405
    message = "Method not allowed. See the Allow header."


class BodyTooSlow(WeirError):
    status = 408
    message = "The body did not arrive in time."


class Conflict(WeirError):
    status = 409


class IdempotencyInProgress(WeirError):
    status = 409
    message = "The first request with this Idempotency-Key is still running. Try again in 1 s."


class PayloadTooLarge(WeirError):
    status = 413


class StorageQuotaExceeded(WeirError):
    status = 413


class UnsupportedMediaType(WeirError):
    status = 415


class ValidationError(WeirError):
    status = 422
    message = "The request is not valid."


class IdempotencyMismatch(WeirError):
    status = 422
    message = "This Idempotency-Key was already used with a different body. Use a new key."


class RateLimitExceeded(WeirError):
    status = 429


class BudgetExceeded(WeirError):
    status = 429
    should_retry = False


class BudgetReserved(WeirError):
    status = 429


class SessionLimitExceeded(WeirError):
    status = 429
    should_retry = False


class ClientHungUp(WeirError):
    status = 499
    message = "The client disconnected before the answer."


class InternalError(WeirError):
    pass


class ProviderError(WeirError):
    """The provider failed, not Weir; the message never names the provider's host.

    `try_again` says whether the same target is worth a retry, `try_next` whether the next target
    is worth a try; `may_be_charged` whether the provider may charge for the call; `counts` whether
    the target's circuit breaker counts it, and `unreachable` whether the target was not reached.
    `usage` is what it reported (llm.messages.Usage). `lost_send_seconds` passed before a
    connection turned out to be closed: the call is made again. `leader_only`: a target was left out
    for the key that pays alone, so the error says nothing to identical requests of other keys.
    """

    try_again = False
    try_next = True
    may_be_charged = False
    counts = True
    unreachable = False
    leader_only = False
    usage: Any = None
    lost_send_seconds: float | None = None

    def uncharged(self) -> Self:
        """The same error, for a call that the provider did not process."""
        self.may_be_charged = False
        return self

    def not_counted(self, is_so: bool = True) -> Self:
        """The same error, which says nothing of whether the target works."""
        self.counts = self.counts and not is_so
        return self


class ProviderRefusedRequest(ProviderError):
    status = 400
    try_next = False
    counts = False


class ProviderFailed(ProviderError):
    status = 502
    try_again = True
    may_be_charged = True


class ProviderRefusedWeir(ProviderFailed):
    message = "The provider rejected Weir's credentials, or Weir's quota there is exhausted."
    try_again = False
    may_be_charged = False


class ProviderBusy(ProviderError):
    status = 503
    try_again = True


class ProvidersUnavailable(ProviderError):
    status = 503


class ProviderTimedOut(ProviderError):
    status = 504
    may_be_charged = True


class StoreUnavailable(WeirError):
    """`logged` is whether the log already says why."""

    status = 503
    message = "The database is unavailable. Try again."
    logged = False


class Overloaded(WeirError):
    status = 503


class ShuttingDown(WeirError):
    status = 503
    message = "The server is shutting down. Try again."


def all_errors(root: type[WeirError] = WeirError) -> list[type[WeirError]]:
    """Every class of the tree below `root`."""
    below = [error for child in root.__subclasses__() for error in all_errors(child)]
    return [root, *below]


def snake_case(name: str) -> str:
    """The name of an error as OpenAI's endpoints have it in `code`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


def forget_traceback(error: BaseException | None) -> None:
    """Let an error that has been dealt with, and those before it, refer to no frames any more.

    The frames often refer to the error: such a cycle keeps bodies and answers in memory.
    """
    while error is not None:
        error.__traceback__ = None
        error = error.__context__
