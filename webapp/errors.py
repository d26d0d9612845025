"""What can go wrong, as one tree; the class name is the public name of the error.

WeirError                       status
├── MalformedRequest              400  not JSON, not UTF-8, two credentials
├── NotAuthenticated              401  a bad Authorization header
├── NotAllowed                    403  no credential, or a bad X-API-Key
├── NotFound                      404
│   └── ModelNotFound             404
├── MethodNotAllowed              405
├── PayloadTooLarge               413
├── UnsupportedMediaType          415
├── ValidationError               422  details name each field
├── RateLimitExceeded             429
├── ClientHungUp                  499  nobody is left to be told; for the log
├── InternalError                 500
├── ProviderError
│   ├── ProviderRefusedRequest    400  the request itself is at fault
│   ├── ProviderFailed            502  5xx, garbage, cut, unreachable, Weir's own credentials
│   ├── ProviderBusy              503  the provider's 429
│   └── ProviderTimedOut          504
├── StoreUnavailable              503  the database is away and the answer needs it
└── ShuttingDown                  503
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class WeirError(Exception):
    """An error with a public face: `status`, a name (the class's) and a safe message.

    `details` (JSON-ready) says what the client needs to act; `retry_after` is in whole seconds.
    """

    status = 500
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


class NotAuthenticated(WeirError):
    status = 401


class NotAllowed(WeirError):
    status = 403


class NotFound(WeirError):
    status = 404
    message = "There is nothing at this address."


class ModelNotFound(NotFound):
    message = "There is no such model."


class MethodNotAllowed(WeirError):
    status = 405
    message = "This address does not take this method."


class PayloadTooLarge(WeirError):
    status = 413


class UnsupportedMediaType(WeirError):
    status = 415


class ValidationError(WeirError):
    status = 422
    message = "The request is not valid."


class RateLimitExceeded(WeirError):
    status = 429


class ClientHungUp(WeirError):
    status = 499
    message = "The client hung up before the answer."


class InternalError(WeirError):
    pass


class ProviderError(WeirError):
    """The provider, not Weir, is at fault; the message never names its host."""


class ProviderRefusedRequest(ProviderError):
    status = 400


class ProviderFailed(ProviderError):
    status = 502


class ProviderBusy(ProviderError):
    status = 503


class ProviderTimedOut(ProviderError):
    status = 504


class StoreUnavailable(WeirError):
    status = 503
    message = "The database cannot be reached right now. Please try again."


class ShuttingDown(WeirError):
    status = 503
    message = "This server is shutting down. Please try again."
