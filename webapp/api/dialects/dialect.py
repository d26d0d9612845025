"""What a dialect is: the format of an endpoint's errors, limits and streams."""

from __future__ import annotations

import json
from typing import Any, Protocol

from webapp.errors import WeirError
from webapp.llm.messages import Chunk, FinalAnswer
from webapp.observability.request_context import RequestContext

Body = dict[str, Any]

COST_HEADER = "X-Weir-Cost-USD"


class Dialect(Protocol):
    """How an endpoint writes what is not an answer: its errors, and headers of its own."""

    def error(self, error: WeirError) -> WeirError:
        """The error that clients of these endpoints get instead of this one, which may be it."""
        ...

    def status(self, error: WeirError) -> int: ...

    def envelope(self, error: WeirError) -> Body:
        """The body of the response for an error."""
        ...

    def headers(self) -> list[tuple[str, str]]:
        """The headers of every response, beside those that all endpoints have."""
        ...


class Events(Protocol):
    """The format of the events of one stream."""

    ping: bytes
    """What is sent while there is nothing to send."""

    def chunk(self, chunk: Chunk) -> bytes: ...

    def end(self, final: FinalAnswer, context: RequestContext) -> bytes:
        """The last events of a stream that succeeded."""
        ...

    def error(self, error: WeirError) -> bytes:
        """The last events of a stream that failed."""
        ...


def sse_event(data: Body) -> bytes:
    """A server-sent event with this data."""
    return f"data: {json.dumps(data)}\n\n".encode()


def cost_text(final: FinalAnswer) -> str | None:
    """What a request cost in USD, without an exponent; None if that is not known."""
    cost = final.cost_usd
    return None if cost is None else f"{cost:.9f}".rstrip("0").rstrip(".")


def cost_comment(final: FinalAnswer) -> bytes:
    """A comment of a stream that says what the request cost; empty if that is not known."""
    cost = cost_text(final)
    return b"" if cost is None else f": {COST_HEADER.lower()}={cost}\n\n".encode()
