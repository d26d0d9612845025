"""The faults that a call of the stand-in provider can have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True, slots=True)
class Fault:
    """The fault of a call. Several can be combined. Times are in seconds."""

    status: int = 0  # an error of this status, in OpenAI's envelope ...
    code: str = ""  # ... with this code
    retry_after: str = ""  # ... and this Retry-After
    headers: str = ""  # these headers with whatever it answers: `name: value`, one a line
    slow: float = 0.0  # waits before the first byte
    hang: bool = False  # never answers
    garbage: bool = False  # 200 with what is not JSON
    wrong_json: bool = False  # 200 with JSON of another shape
    cut_before: bool = False  # closes after the headers
    role_then_cut: bool = False  # a stream closes after the role, before any content
    cut_after: bool = False  # does what a batch's request asks, and closes without an answer
    hang_after: bool = False  # the same, and never answers
    cut: bool = False  # closes after two pieces (plain: within the body)
    no_finish: bool = False  # ends with neither finish_reason nor [DONE]
    error_event: bool = False  # a stream reports an error after two pieces
    empty: bool = False  # the content is empty
    big: int = 0  # the content has this many bytes
    no_usage: bool = False  # the answer has no usage
    usage_on_choice: bool = False  # a stream's last choice has the usage, requested or not
    gap: float = 0.0  # a pause between the pieces of a stream
    pieces: int = 0  # how many pieces a stream has; the content grows if it is too short

    habit: str = ""  # departs from OpenAI's protocol in this way (habits.HABITS)
    split: int = 0  # sends what a habit makes in parts of so many bytes
    refusal: str = ""  # an error of this kind (habits.REFUSALS)
    refuses: str = ""  # refuses these parameters, joined by `+` ...
    refuses_like: str = "openai"  # ... as this server does (habits.PARAMETER_REFUSALS)
    close_reused: bool = False  # closes a connection at its second request, without a byte
    reset_reused: bool = False  # the same by a reset

    # The calls that it applies to; empty means all.
    path: str = ""
    model: str = ""
    times: int = 0

    @classmethod
    def parse(cls, settings: Mapping[str, Any]) -> Fault:
        """Raises ValueError for an unknown name, so that a typo does not go unnoticed."""
        defaults = {one.name: one.default for one in fields(cls)}
        unknown = settings.keys() - defaults.keys()
        if unknown:
            raise ValueError(f"unknown fault: {', '.join(sorted(unknown))}")
        return cls(**{name: _like(defaults[name], settings[name]) for name in settings})

    @classmethod
    def from_directive(cls, directive: str) -> Fault:
        """From `status=429,retry_after=2,slow=1`; a name alone switches it on."""
        parts = (part.strip().partition("=") for part in directive.split(",") if part.strip())
        return cls.parse({name: value if equals else True for name, equals, value in parts})

    def concerns(self, path: str, model: str) -> bool:
        return self.path in {"", path} and self.model in {"", model}


def _like(default: Any, value: Any) -> Any:
    """The value in the type of the default. A switch is on unless the value is `false`."""
    if isinstance(default, bool):
        return str(value).lower() == "true"
    if isinstance(value, bool):
        raise ValueError("this fault needs a value: how much of it?")
    return type(default)(value)
