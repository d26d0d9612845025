"""A request that runs later, as a job: who it was let in as, who pays, who waits for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from webapp.current_request import current_request
from webapp.llm.calls import BilledLine, ClientConnection

if TYPE_CHECKING:
    from webapp.admission.identity import Principal

# Of the WSGI environment. What clients send has other names there: `HTTP_…` and CGI's.
ENVIRONMENT_KEY = "weir.deferred"


@dataclass(frozen=True, slots=True)
class DeferredRequest:
    """Its limits were consumed when it was created, and it was counted then."""

    principal: Principal
    line: BilledLine
    client: ClientConnection


def deferred() -> DeferredRequest | None:
    """What the current request is, if it runs as a job."""
    found: DeferredRequest | None = current_request().environ.get(ENVIRONMENT_KEY)
    return found
