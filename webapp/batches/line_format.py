"""What batches need to know of the endpoints whose requests they run."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Protocol

from webapp.errors import WeirError
from webapp.llm.messages import ModelRequest


class LineFormat(Protocol):
    """How requests and errors of the endpoints are written; the endpoints themselves know."""

    @property
    def endpoints(self) -> Collection[str]:
        """Paths that a batch may name."""
        ...

    max_body: int
    """Bytes that a line may have."""

    def decode(self, line: bytes) -> Any:
        """A line as JSON, exact in every number. Raises ValueError."""
        ...

    def model_request(self, endpoint: str, body: dict[str, Any]) -> ModelRequest:
        """The model request of a body, which it may change. Raises ValidationError."""
        ...

    def error(self, error: WeirError) -> tuple[int, dict[str, Any]]:
        """Status and body of the response for an error."""
        ...
