"""How running a line can come out, for the executor."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from webapp.batches.batch import ClaimedLine
from webapp.errors import WeirError
from webapp.llm.calls import ClientConnection


@dataclass(frozen=True, slots=True)
class Ended:
    """The line has ended: status and JSON of its response, and the code of its error if it failed.

    `notes` are Weir's own fields of its output line. `called` says that a provider has answered.
    """

    status: int
    body: bytes
    request_id: str
    error: str | None = None
    notes: dict[str, Any] = field(default_factory=dict)
    called: bool = False


@dataclass(frozen=True, slots=True)
class Again:
    """The line may be tried again after so many seconds. `counts`: it may do so a few times only,
    and then ends as `ended`. `reason` is the provider's error, if one is the reason."""

    after: float
    ended: Ended
    counts: bool
    reason: WeirError | None = None


@dataclass(frozen=True, slots=True)
class Stopped:
    """No further line of the batch may begin: `code` and `message` say why."""

    error: dict[str, str]


Outcome = Ended | Again | Stopped


class LineRunner(Protocol):
    """Runs the lines of a kind of batches."""

    def targets(self, line: ClaimedLine, request: bytes) -> tuple[str, ...]:
        """The names of the targets of the line's route, in order; none if it has no route."""
        ...

    def run(self, line: ClaimedLine, request: bytes, client: ClientConnection) -> Outcome:
        """Run a line, whose request is its line of the input file, or a job's JSON.

        Raises ShuttingDown if `client` does, and StoreUnavailable.
        """
        ...
