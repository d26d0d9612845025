"""Reads lines from the input file, with as few reads as their places allow."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

from webapp.storage.blobs import BlobStore

MAX_GAP = 64 * 1024  # bytes between two lines that are read at once
MAX_SPAN = 4 * 1024 * 1024  # bytes that are read at once, where they are more than a line
MISSING_ERROR = {
    "code": "input_file_missing",
    "message": "The input file was not there any more when this line was to begin.",
}


class Placed(Protocol):
    """A line, with its place in the file in bytes."""

    @property
    def position(self) -> int: ...

    @property
    def length(self) -> int: ...


PlacedLine = TypeVar("PlacedLine", bound=Placed)


def read_lines(
    blobs: BlobStore, file_id: str, lines: Iterable[PlacedLine]
) -> Iterator[tuple[PlacedLine, bytes]]:
    """Each line with its text. Raises BlobMissing and StoreUnavailable."""
    for span in spans(lines):
        start = span[0].position
        length = span[-1].position + span[-1].length - start
        text = b"".join(blobs.read(file_id, start, length))
        for line in span:
            yield line, text[line.position - start :][: line.length]


def spans(lines: Iterable[PlacedLine]) -> Iterator[list[PlacedLine]]:
    """The lines in groups that lie next to each other in the file and are read together."""
    span: list[PlacedLine] = []
    for line in lines:
        if span and (
            line.position + line.length - span[0].position > MAX_SPAN
            or line.position - (span[-1].position + span[-1].length) > MAX_GAP
        ):
            yield span
            span = []
        span.append(line)
    if span:
        yield span
