"""How many bytes of answers a worker holds that their clients have not taken."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# Answers up to this size (bytes) are not counted.
SMALL = 64 * 1024
SHARES = 4  # a key or address may have one of so many of what all may have


class UnreadAnswers:
    """The bytes of answers that are being sent, in all and by whose they are, of `most`.

    An answer is made before it is known that nobody takes it, so none is refused. Whoever has more
    than a quarter, or anybody while all have more than `most`, loses the answers that are taken too
    slowly, until there is room again.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._held = 0
        self._held_by: Counter[str] = Counter()

    @contextmanager
    def counting(self, whose: str, size: int) -> Iterator[Callable[[], bool]]:
        """Count an answer of `size` bytes while it is sent.

        Yields what tells whether there are too many, and this is one of them.
        """
        if size <= SMALL:
            yield lambda: False
            return
        self._held += size
        self._held_by[whose] += size
        try:
            yield lambda: self._held > self._most or self._held_by[whose] > self._most // SHARES
        finally:
            self._held -= size
            self._held_by[whose] -= size
            if not self._held_by[whose]:
                del self._held_by[whose]
