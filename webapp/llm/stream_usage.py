"""The usage of a stream so far, in case it is interrupted."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from webapp.llm.messages import Usage
from webapp.llm.tokens import byte_length

MAX_TOKENS_PER_SECOND = 4_000  # faster than any provider generates today
CANCEL_LATENCY = 2.0  # seconds until a provider notices that Weir has disconnected
MIN_TOKENS_IN_FLIGHT = 64
MIN_DURATION = 0.05  # seconds; a rate over less time means nothing


def unseen_tokens(seconds: float) -> int:
    """The tokens that may have been generated in this time."""
    return MIN_TOKENS_IN_FLIGHT + int(seconds * MAX_TOKENS_PER_SECOND)


@dataclass(slots=True)
class StreamUsage:
    """`tokens` is an upper bound: no tokenizer makes more tokens of a text than it has bytes.

    `on_chunk` is called for each chunk that has a text. `input` returns the usage as the provider
    told it before the output, if it did: only its input counts.
    """

    on_chunk: Callable[[], None]
    tokens: int = 0
    usage: Usage | None = None
    input: Callable[[], Usage | None] = lambda: None
    _began_at: float = field(default_factory=time.monotonic, init=False)
    _first_at: float | None = field(default=None, init=False)
    _hidden_since: float | None = field(default=None, init=False)
    _hidden_seconds: float = field(default=0.0, init=False)

    def hide(self) -> None:
        """The model thinks from now on, and shows no more than a summary."""
        if self._hidden_since is None:
            self._hidden_since = time.monotonic()

    def show(self) -> None:
        """It does not think any more."""
        self._hidden_seconds = self._seconds_hidden
        self._hidden_since = None

    def count(self, text: str) -> None:
        """Count a chunk; `text` is the text of all its choices, and may be empty."""
        if self._first_at is None:
            self._first_at = time.monotonic()
            if self._hidden_since is not None:
                self._hidden_since = self._first_at
        if text:
            self.on_chunk()
            self.tokens += byte_length(text)

    @property
    def has_begun(self) -> bool:
        return self._first_at is not None

    @property
    def hidden_tokens(self) -> int:
        """The reasoning tokens that a model may have generated before its first chunk, and while
        it thought later."""
        before = (self._first_at or time.monotonic()) - self._began_at
        return int((before + self._seconds_hidden) * MAX_TOKENS_PER_SECOND)

    @property
    def _seconds_hidden(self) -> float:
        if self._hidden_since is None or self._first_at is None:
            return self._hidden_seconds
        return self._hidden_seconds + time.monotonic() - self._hidden_since

    @property
    def unseen_tokens(self) -> int:
        """The tokens that may have been generated so far of an answer that is not streamed."""
        return unseen_tokens(time.monotonic() - self._began_at)

    @property
    def tokens_when_cancelled(self) -> int:
        """`tokens`, and those that may have been in transit when Weir disconnected, at the
        stream's rate until then."""
        if self._first_at is None:
            return 0
        duration = max(MIN_DURATION, time.monotonic() - self._first_at)
        return self.tokens + max(MIN_TOKENS_IN_FLIGHT, int(self.tokens / duration * CANCEL_LATENCY))
