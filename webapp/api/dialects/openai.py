"""The dialect of OpenAI's endpoints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from webapp.admission import limits
from webapp.api.dialects.dialect import Body, cost_comment, sse_event
from webapp.errors import (
    NotAllowed,
    NotAuthenticated,
    UnsupportedParameter,
    ValidationError,
    WeirError,
    snake_case,
)
from webapp.llm.messages import Chunk, FinalAnswer
from webapp.observability.request_context import RequestContext

DONE = b"data: [DONE]\n\n"

# OpenAI's error types by status. Other statuses below 500 are `invalid_request_error`.
TYPES = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
}
# By error name; these come first. After a 429 of another type Codex asks again.
TYPES_OF_ERRORS = {
    "BudgetExceeded": "insufficient_quota",
    "SessionLimitExceeded": "insufficient_quota",
}
MAX_REASONS = 5  # of invalid fields, in a message


class OpenAIDialect:
    """Implements Dialect."""

    def error(self, error: WeirError) -> WeirError:
        return NotAuthenticated(error.message) if isinstance(error, NotAllowed) else error

    def status(self, error: WeirError) -> int:
        return 400 if type(error) is ValidationError else error.status

    def envelope(self, error: WeirError) -> Body:
        """Always with all four fields, as clients read each of them."""
        details = error.details or {}
        param = details.get("param")
        if isinstance(error, ValidationError | UnsupportedParameter):
            param = next(iter(details), None)
        kind = "server_error" if error.status >= 500 else "invalid_request_error"
        body = {
            "message": _with_reasons(error),
            "type": TYPES_OF_ERRORS.get(error.name) or TYPES.get(error.status, kind),
            "param": None if param is None else str(param),
            "code": details.get("code") or snake_case(error.name),
        }
        if "provider" in details:
            body["provider"] = details["provider"]
        return {"error": body}

    def headers(self) -> list[tuple[str, str]]:
        return limits.openai_headers()


OPENAI = OpenAIDialect()


def _with_reasons(error: WeirError) -> str:
    """The message of an error; one that only names fields also says what is wrong with them, as
    OpenAI's format has no details."""
    details = error.details or {}
    if error.message != f"The request is not valid: {', '.join(map(str, details))}.":
        return error.message
    return f"The request is not valid: {' '.join(islice(_reasons(details), MAX_REASONS))}"


def _reasons(details: Any, *names: str) -> Iterator[str]:
    if isinstance(details, Mapping):
        for name, inner in details.items():
            yield from _reasons(inner, *names, str(name))
    else:
        reasons = details if isinstance(details, list) else [details]
        yield f"{'.'.join(names)}: {' '.join(map(str, reasons))}"


class OpenAIEvents:
    """Implements Events: the provider's chunks, unchanged."""

    ping = b": ping\n\n"

    def chunk(self, chunk: Chunk) -> bytes:
        return f"data: {chunk.data}\n\n".encode()

    def end(self, final: FinalAnswer, context: RequestContext) -> bytes:
        return cost_comment(final) + DONE

    def error(self, error: WeirError) -> bytes:
        return sse_event(OPENAI.envelope(error)) + DONE
