"""Bodies of requests, as bytes: how many bytes at once, how many values in one.

A body that is small in bytes can be large in memory, and long to decode: `{},` a million times.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import gevent
from flask import g, request
from gevent.lock import BoundedSemaphore

from webapp.admission.parts import parts
from webapp.current_request import current_request
from webapp.errors import MalformedRequest, Overloaded, PayloadTooLarge, RateLimitExceeded
from webapp.forwarded import network_of

if TYPE_CHECKING:
    from webapp.admission.identity import Principal

# Bodies up to this size (bytes) are neither counted nor looked through.
SMALL = 64 * 1024
# Read in larger blocks than Werkzeug would: with each, Gunicorn copies all that it has received.
BLOCK = 1024 * 1024
SLICE = 128 * 1024  # looked through before others get their turn
MAX_CONTAINERS = 100_000  # objects and arrays
MAX_VALUES = 500_000
# An object or array, and a value, have four quotes at the most.
MAX_QUOTES = 4 * (MAX_CONTAINERS + MAX_VALUES)
SHARES = 4  # a key may have one of so many of what all may have
_decoding = BoundedSemaphore()
TOO_MANY_VALUES = (
    f"The body has too many values: more than {MAX_VALUES:,}, or more than {MAX_CONTAINERS:,} "
    "objects and arrays."
)


class BodyBudget:
    """How many bytes the bodies of running requests have, in all and for each key, of `most`.

    A key may have a quarter. Once half of all is taken, the keys share the other half equally, so
    that a few cannot take large bodies away from all others. A body that is alone may be larger.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._taken = 0
        self._taken_by: Counter[str] = Counter()

    def take(self, whose: str, size: int, request_has: int) -> None:
        """Count `size` bytes more, for a request that has `request_has` by now.

        Raises RateLimitExceeded and Overloaded, and counts nothing.
        """
        used = self._taken_by[whose]
        is_alone = self._taken == request_has
        if not is_alone and self._taken + size > self._most // 2:
            if used + size > self._most // 2 // len(self._taken_by):
                raise Overloaded("The bodies of all running requests are too large together.")
        elif used > request_has and used + size > self._most // SHARES:
            raise RateLimitExceeded(
                "The bodies of your running requests are too large together. Try again in 1 s.",
                details={"limit": "body_bytes", "size": self._most // SHARES, "used": used},
                retry_after=1,
            )
        self._taken += size
        self._taken_by[whose] += size

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
        if size > SMALL:
            self._budget.take(self._whose, size - self._size, self._size)
            self._size = size

    def give_back(self) -> None:
        self._budget.give_back(self._whose, self._size)
        self._size = 0


@contextmanager
def decoding_turn(body: bytes) -> Iterator[None]:
    """A turn to decode a body: large ones one after the other, with a turn of the loop in between
    for everybody else."""
    if len(body) <= SMALL:
        yield
        return
    with _decoding:
        gevent.sleep(0)
        yield


def read_body(*, keep: bool = False) -> bytes:
    """The body of this request; with `keep`, for a further reader.

    Raises PayloadTooLarge, MalformedRequest, RateLimitExceeded and Overloaded.
    """
    body: bytes | None = g.pop("body", None)
    if body is None:
        g.body_share = share = _Share(parts().bodies, whose())
        body = _read(share)
    if keep:
        g.body = body
    return body


def count_body(size: int) -> None:
    """Count so many bytes for a body that is read as a stream, of which no more is in memory.

    Raises RateLimitExceeded and Overloaded.
    """
    g.body_share = share = _Share(parts().bodies, whose())
    share.grow_to(size)


def over() -> Callable[[], None] | None:
    """What to do when this request is over, if its body was counted."""
    share: _Share | None = g.pop("body_share", None)
    return share.give_back if share else None


def whose() -> str:
    """Whose this request is: its key's, or without one that of its address."""
    principal: Principal | None = g.get("principal")
    return principal.bucket if principal else network_of(request.remote_addr)


def _read(share: _Share) -> bytes:
    request = current_request()
    length, limit = request.content_length, request.max_content_length
    values = _Values()
    blocks, size = [], 0
    # What is asked for is allocated at once.
    block_size = BLOCK if length is None else min(BLOCK, length)
    stream = request.stream
    while block := stream.read(block_size):
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
        self._containers = self._commas = self._quotes = 0
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
        return (
            self._containers > MAX_CONTAINERS
            or self._commas >= MAX_VALUES
            or self._quotes > MAX_QUOTES
        )

    def _count_new(self, blocks: Sequence[bytes]) -> None:
        for block in blocks[self._counted :]:
            for start in range(0, len(block), SLICE):
                gevent.sleep(0)
                self._count_slice(block[start : start + SLICE])
        self._counted = len(blocks)

    def _count_slice(self, text: bytes) -> None:
        if self._exact:
            text = self._outside_of_strings(text)
        self._containers += text.count(b"{") + text.count(b"[")
        self._commas += text.count(b",")

    def _outside_of_strings(self, block: bytes) -> bytes:
        text = (self._escape + block).replace(rb"\\", b"").replace(rb"\"", b"")
        # A backslash at the end escapes the first byte of the next block.
        self._escape = b"\\" if text.endswith(b"\\") else b""
        self._quotes += text.count(b'"')
        if self._quotes > MAX_QUOTES:
            return b""
        pieces = text.split(b'"')
        outside = b"".join(pieces[self._in_string :: 2])
        if len(pieces) % 2 == 0:
            self._in_string = not self._in_string
        return outside
