"""How a request ended: of one, and as conditions of the request log's rows."""

from __future__ import annotations

from enum import StrEnum

from sqlalchemy import ColumnElement, func, not_, or_

from webapp.errors import all_errors
from webapp.metering.request_log import requests


class Outcome(StrEnum):
    """How a request ended, whatever status its headers said."""

    SUCCESS = "success"
    ERROR = "error"  # as /stats counts errors: Weir or a provider failed
    REFUSED = "refused"  # by one of Weir's limits
    INVALID = "invalid"  # any other error of the client, or it disconnected


def outcome_of(status: int, error: str | None) -> Outcome:
    """How a request with this status and error ended."""
    if status >= 500 or error in _SERVER_ERRORS:
        return Outcome.ERROR
    if error in _REFUSALS:
        return Outcome.REFUSED
    return Outcome.SUCCESS if status < 400 and error is None else Outcome.INVALID


# The same in SQL. A stream that fails has sent status 200 by then.
_SERVER_ERRORS = {error.__name__ for error in all_errors() if error.status >= 500}
_REFUSALS = {error.__name__ for error in all_errors() if error.status == 429}
_ERROR = func.coalesce(requests.c.error, "")
CONDITIONS: dict[Outcome, ColumnElement[bool]] = {
    Outcome.ERROR: (requests.c.status >= 500) | _ERROR.in_(_SERVER_ERRORS),
    Outcome.REFUSED: (requests.c.status < 500) & _ERROR.in_(_REFUSALS),
    Outcome.SUCCESS: (requests.c.status < 400) & (_ERROR == ""),
}
CONDITIONS[Outcome.INVALID] = not_(or_(*CONDITIONS.values()))
