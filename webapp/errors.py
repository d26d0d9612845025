"""What can go wrong, as one tree; the class name is the public name of the error.

WeirError                       status
├── MalformedRequest              400  not JSON, not UTF-8, two credentials
├── UnsupportedParameter          400  the provider asked cannot be told this
├── NotAuthenticated              401  a bad Authorization header
├── NotAllowed                    403  no credential, or a bad X-API-Key
├── ModelNotAllowed               403  this key may use other models only
├── AddressNotAllowed             403  this key works from other networks only
├── ModelNotPriced                403  nobody knows what it costs, and there is a budget
├── NotFound                      404
│   └── ModelNotFound             404
├── MethodNotAllowed              405
├── Conflict                      409  what is there already does not allow it
├── IdempotencyInProgress         409  the first request with this key still runs
├── PayloadTooLarge               413
├── UnsupportedMediaType          415
├── ValidationError               422  details name each field (400 at OpenAI's endpoints)
├── IdempotencyMismatch           422  this key was used with another body
├── RateLimitExceeded             429
├── BudgetExceeded                429  the budget has not enough left for this call
├── BudgetReserved                429  ... because other calls hold a part of it just now
├── ClientHungUp                  499  nobody is left to be told; for the log
├── InternalError                 500
├── ProviderError
│   ├── ProviderRefusedRequest    400  the request itself is at fault
│   ├── ProviderFailed            502  5xx, garbage, cut, unreachable
│   │   └── ProviderRefusedWeir   502  Weir's own credentials or quota
│   ├── ProviderBusy              503  the provider's 429
│   ├── ProvidersUnavailable      503  all breakers are open
│   └── ProviderTimedOut          504
├── StoreUnavailable              503  the database is away and the answer needs it
└── ShuttingDown                  503
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self


class WeirError(Exception):
    """An error with a public face: `status`, a name (the class's) and a safe message.

    `details` (JSON-ready) says what the client needs to act; `retry_after` is in whole seconds;
    `attempts` counts the calls to providers that led to it; `should_retry` tells clients that would
    decide otherwise by the status.
    """

    status = 500
    attempts = 0
    should_retry: bool | None = None
    message = "Something went wrong in Weir. The request id finds it in the log."

    def __init__(
        self,
        message: str | None = None,
        *,
        details: Mapping[str, Any] | None = None,
        retry_after: int | None = None,
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
            message or f"The provider of this model cannot be told {parameter!r}.",
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
    message = "This key may not be used from this address."


class ModelNotPriced(WeirError):
    status = 403


class NotFound(WeirError):
    status = 404
    message = "There is nothing at this address."


class ModelNotFound(NotFound):
    message = "There is no such model."


class MethodNotAllowed(WeirError):
    status = 405
    message = "This address does not take this method."


class Conflict(WeirError):
    status = 409


class IdempotencyInProgress(WeirError):
    status = 409
    message = "The first request with this Idempotency-Key is still running. Try again in 1 s."


class PayloadTooLarge(WeirError):
    status = 413


class UnsupportedMediaType(WeirError):
    status = 415


class ValidationError(WeirError):
    status = 422
    message = "The request is not valid."


class IdempotencyMismatch(WeirError):
    status = 422
    message = "This Idempotency-Key was used before with another body. Use a new one."


class RateLimitExceeded(WeirError):
    status = 429


class BudgetExceeded(WeirError):
    status = 429
    should_retry = False


class BudgetReserved(WeirError):
    status = 429


class ClientHungUp(WeirError):
    status = 499
    message = "The client hung up before the answer."


class InternalError(WeirError):
    pass


class ProviderError(WeirError):
    """The provider, not Weir, is at fault; the message never names its host.

    `try_again` says whether the same provider may do better in a moment, `try_next` whether
    another one may; `may_be_charged` whether it may have worked, and charge for it.
    """

    try_again = False
    try_next = True
    may_be_charged = False

    def uncharged(self) -> Self:
        """The same error of a call that the provider has not worked on."""
        self.may_be_charged = False
        return self


class ProviderRefusedRequest(ProviderError):
    status = 400
    try_next = False


class ProviderFailed(ProviderError):
    status = 502
    try_again = True
    may_be_charged = True


class ProviderRefusedWeir(ProviderFailed):
    message = "The provider refuses Weir's credentials or its quota."
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
    status = 503
    message = "The database cannot be reached right now. Please try again."


class ShuttingDown(WeirError):
    status = 503
    message = "This server is shutting down. Please try again."
