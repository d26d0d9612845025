"""What has come of a stream so far, in case it does not come to its end."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from webapp.llm.messages import Usage

MAX_TOKENS_PER_SECOND = 4_000  # tokens a second: faster than any provider writes today
CANCEL_LATENCY = 2.0  # seconds until a provider notices that Weir has hung up
MIN_TOKENS_IN_FLIGHT = 64  # tokens
MIN_DURATION = 0.05  # seconds; a rate over less says nothing


@dataclass(slots=True)
class StreamUsage:
    """`tokens` is a bound: no tokenizer makes more tokens of a text than it has bytes.

    `heard` is told of each chunk that has a text.
    """

    on_chunk: Callable[[], None]
    tokens: int = 0
    usage: Usage | None = None
    _began_at: float = field(default_factory=time.monotonic, init=False)
    _first_at: float | None = field(default=None, init=False)

    def count(self, text: str) -> None:
        """A chunk has come, with this text in all its choices; some have none."""
        if self._first_at is None:
            self._first_at = time.monotonic()
        if text:
            self.on_chunk()
        self.tokens += len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))

    @property
    def has_begun(self) -> bool:
        return self._first_at is not None

    @property
    def hidden_tokens(self) -> int:
        """What a model may have thought before its first chunk."""
        return int(((self._first_at or time.monotonic()) - self._began_at) * MAX_TOKENS_PER_SECOND)

    @property
    def unseen_tokens(self) -> int:
        """What may have been written of an answer that comes as a whole, until now."""
        return MIN_TOKENS_IN_FLIGHT + self.hidden_tokens

    @property
    def tokens_when_cancelled(self) -> int:
        """With what may have been on its way when Weir hung up: as fast as it came until then."""
        if self._first_at is None:
            return 0
        lasted = max(MIN_DURATION, time.monotonic() - self._first_at)
        return self.tokens + max(MIN_TOKENS_IN_FLIGHT, int(self.tokens / lasted * CANCEL_LATENCY))
