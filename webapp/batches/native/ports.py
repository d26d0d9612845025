"""What is needed of a provider's batches, and what they say."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from webapp.llm.accounting import storable
from webapp.llm.messages import ModelRequest

Result = TypeVar("Result")

MAX_CODE_LENGTH = 64  # of the column of lines' errors
# Statuses of requests that the same provider may take later.
TEMPORARY = {401, 403, 408, 409, 429}
EXPIRED = ("batch_expired", "The provider did not run this line within its 24 hours.")
CANCELLED = ("batch_cancelled", "The batch was cancelled before the provider ran this line.")
MISSING = ("result_missing", "The provider's results have none for this line.")


class ProviderAway(Exception):
    """The provider did not answer, or not as it should: the same may succeed later."""


class Refused(Exception):
    """The provider refuses a batch for good. `code` and the message are the provider's."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a provider's batch is.

    `ended`: nothing of it runs any more. `cancellable`: it may be cancelled now. `outcome` is why
    a line without a result has none: (code, message). `was_run`: such a line may have been run all
    the same.
    """

    ended: bool
    cancellable: bool
    outcome: tuple[str, str]
    was_run: bool


@dataclass(frozen=True, slots=True)
class LineResult:
    """What a provider says of one line: status and JSON of its response, or else its error.

    `charged` says that it was run.
    """

    custom_id: str
    status: int
    body: bytes
    request_id: str = ""
    error: tuple[str, str] | None = None

    @property
    def charged(self) -> bool:
        return self.error is None and self.status < 400


class ProviderBatches(Protocol):
    """The batches of one provider. Methods raise ProviderAway and Refused."""

    max_lines: int
    max_bytes: int

    @property
    def endpoints(self) -> Collection[str]:
        """Those of Weir's whose requests it takes."""
        ...

    def exist(self) -> bool:
        """Whether the provider has batches."""
        ...

    def line(self, custom_id: str, endpoint: str, request: ModelRequest, model: str) -> bytes:
        """A line of its input. Raises WeirError where the provider cannot be asked that."""
        ...

    def upload(self, token: str, lines: Iterable[bytes]) -> str | None:
        """Upload the input, if that is a step of its own. Returns the id of the file."""
        ...

    def create(self, token: str, endpoint: str, file_id: str | None, lines: Iterable[bytes]) -> str:
        """Hand a batch over. Returns its id."""
        ...

    def find(self, token: str, since: float, count: int, known: Collection[str]) -> str | None:
        """The id of the batch with this token and so many lines, created after `since` (Unix
        seconds); None where the provider has none for certain. `known` are not it."""
        ...

    def progress(self, batch_id: str) -> Progress: ...

    def cancel(self, batch_id: str) -> None: ...

    def results(self, batch_id: str, model: str) -> Iterator[LineResult]:
        """The results of a batch that has ended, streamed."""
        ...

    def forget(self, batch_id: str, file_id: str | None) -> None:
        """Delete what the provider keeps of a batch that is collected."""
        ...


def error_code(error: Any) -> tuple[str, str]:
    """Code and message of a provider's error object, which may be anything. A database can hold
    the code."""
    found = error if isinstance(error, dict) else {}
    code = storable(str(found.get("code") or found.get("type") or ""), MAX_CODE_LENGTH)
    return code or "provider_error", str(found.get("message") or "The provider gave no reason.")


def temporary(ask: Callable[[], Result]) -> Result:
    """What a provider is asked again later, though it refuses it now."""
    try:
        return ask()
    except Refused as refused:
        raise ProviderAway(f"{refused.code}: {refused}") from refused
