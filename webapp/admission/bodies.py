"""Bodies of requests, as bytes: how many bytes at once, how many values in one.

A body that is small in bytes can be large in memory, and long to decode: `{},` a million times.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from flask import g, request

from webapp.admission.parts import parts
from webapp.errors import MalformedRequest, Overloaded, PayloadTooLarge, RateLimitExceeded
from webapp.forwarded import network_of

# Bodies up to this size (bytes) are neither counted nor looked through.
SMALL = 64 * 1024
# Read in larger blocks than Werkzeug would: with each, Gunicorn copies all that it has received.
BLOCK = 1024 * 1024
MAX_CONTAINERS = 100_000  # objects and arrays
MAX_VALUES = 500_000
SHARES = 4  # a key may have one of so many of what all may have
TOO_MANY_VALUES = (
    f"The body has too many values: more than {MAX_VALUES:,}, or more than {MAX_CONTAINERS:,} "
    "objects and arrays."
)


class BodyBudget:
    """How many bytes the bodies of running requests have, in all and for each key, of `most`."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._most_each = most // SHARES
        self._taken = 0
        self._taken_by: Counter[str] = Counter()

    def take(self, whose: str, size: int) -> None:
        """Count `size` bytes more. Raises RateLimitExceeded and Overloaded, and counts nothing."""
        used = self._taken_by[whose] + size
        if used > max(self._most_each, size):
            raise RateLimitExceeded(
                "The bodies of your running requests are too large together. Try again in 1 s.",
                details={"limit": "body_bytes", "size": self._most_each, "used": used - size},
                retry_after=1,
            )
        if self._taken + size > max(self._most, size):
            raise Overloaded("The bodies of all running requests are too large together.")
        self._taken += size
        self._taken_by[whose] = used

    def give_back(self, whose: str, size: int) -> None:
        self._taken -= size
        self._taken_by[whose] -= size
        if not self._taken_by[whose]:
            del self._taken_by[whose]


class _Share:
    """What one request has taken of the budget."""

    def __init__(self, budget: BodyBudget, whose: str) -> None:
        self._budget = budget
        self._whose = whose
        self._size = 0

    def grow_to(self, size: int) -> None:
        if size > SMALL and size > self._size:
            self._budget.take(self._whose, size - self._size)
            self._size = size

    def give_back(self) -> None:
        self._budget.give_back(self._whose, self._size)
        self._size = 0


def read_body(*, keep: bool = False) -> bytes:
    """The body of this request; with `keep`, for a further reader.

    Raises PayloadTooLarge, MalformedRequest, RateLimitExceeded and Overloaded.
    """
    body: bytes | None = g.pop("body", None)
    if body is None:
        g.body_share = share = _Share(parts().bodies, _whose())
        body = _read(share)
    if keep:
        g.body = body
    return body


def over() -> Callable[[], None] | None:
    """What to do when this request is over, if its body was counted."""
    share: _Share | None = g.pop("body_share", None)
    return share.give_back if share else None


def _whose() -> str:
    return g.principal.bucket if "principal" in g else network_of(request.remote_addr)


def _read(share: _Share) -> bytes:
    length, limit = request.content_length, request.max_content_length
    if length is not None:
        share.grow_to(length if limit is None else min(length, limit))
    values = _Values()
    blocks, size = [], 0
    while block := request.stream.read(BLOCK):
        blocks.append(block)
        size += len(block)
        share.grow_to(size)
        if size > SMALL:
            values.count(blocks)
    # A chunked body has no length to check. Werkzeug stops reading at the limit.
    if length is None and limit is not None and size >= limit:
        raise PayloadTooLarge("The body is too large for this endpoint.")
    if length is not None and size < length:
        raise MalformedRequest("The body is shorter than its Content-Length.")
    return b"".join(blocks)


class _Values:
    """Counts the values of a JSON text as it comes, without those that only stand in its strings.

    At first all brackets and commas count; strings are looked for only if these are too many.
    """

    def __init__(self) -> None:
        self._counted = 0
        self._containers = self._commas = 0
        self._exact = False
        self._in_string = False
        self._escape = b""

    def count(self, blocks: Sequence[bytes]) -> None:
        """Count the blocks that are new. Raises PayloadTooLarge."""
        self._count_new(blocks)
        if self._are_too_many and not self._exact:
            self._counted = self._containers = self._commas = 0
            self._exact = True
            self._count_new(blocks)
        if self._are_too_many:
            raise PayloadTooLarge(TOO_MANY_VALUES)

    @property
    def _are_too_many(self) -> bool:
        return self._containers > MAX_CONTAINERS or self._commas >= MAX_VALUES

    def _count_new(self, blocks: Sequence[bytes]) -> None:
        for block in blocks[self._counted :]:
            text = self._outside_of_strings(block) if self._exact else block
            self._containers += text.count(b"{") + text.count(b"[")
            self._commas += text.count(b",")
        self._counted = len(blocks)

    def _outside_of_strings(self, block: bytes) -> bytes:
        text = (self._escape + block).replace(rb"\\", b"").replace(rb"\"", b"")
        # A backslash at the end escapes the first byte of the next block.
        self._escape = b"\\" if text.endswith(b"\\") else b""
        pieces = text.split(b'"')
        outside = b"".join(pieces[self._in_string :: 2])
        if len(pieces) % 2 == 0:
            self._in_string = not self._in_string
        return outside
