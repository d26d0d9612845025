"""What has come of a stream so far, in case it does not come to its end."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from webapp.llm.messages import Usage

FASTEST = 4_000  # tokens a second: faster than any provider writes today
ON_ITS_WAY = 2.0  # seconds until a provider notices that Weir has hung up
AT_LEAST_ON_ITS_WAY = 64  # tokens
SHORTEST = 0.05  # seconds; a rate over less says nothing


@dataclass(slots=True)
class Meter:
    """`tokens` is a bound: no tokenizer makes more tokens of a text than it has bytes.

    `heard` is told of each chunk that has a text.
    """

    heard: Callable[[], None]
    tokens: int = 0
    usage: Usage | None = None
    _began_at: float = field(default_factory=time.monotonic, init=False)
    _first_at: float | None = field(default=None, init=False)

    def count(self, text: str) -> None:
        """A chunk has come, with this text in all its choices; some have none."""
        if self._first_at is None:
            self._first_at = time.monotonic()
        if text:
            self.heard()
        self.tokens += len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))

    @property
    def has_begun(self) -> bool:
        return self._first_at is not None

    @property
    def hidden(self) -> int:
        """What a model may have thought before its first chunk."""
        return int(((self._first_at or time.monotonic()) - self._began_at) * FASTEST)

    @property
    def unseen(self) -> int:
        """What may have been written of an answer that comes as a whole, until now."""
        return AT_LEAST_ON_ITS_WAY + self.hidden

    @property
    def tokens_when_left(self) -> int:
        """With what may have been on its way when Weir hung up: as fast as it came until then."""
        if self._first_at is None:
            return 0
        lasted = max(SHORTEST, time.monotonic() - self._first_at)
        return self.tokens + max(AT_LEAST_ON_ITS_WAY, int(self.tokens / lasted * ON_ITS_WAY))
