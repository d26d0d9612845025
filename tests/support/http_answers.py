"""A strict reader of HTTP/1.1 answers: what it does not take, some client would misread."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import BinaryIO

STATUS_LINE = re.compile(rb"HTTP/1\.\d ([1-5]\d\d) [\t\x20-\x7e]*\r\n")
HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\t\x20-\x7e\x80-\xff]*)\r\n")
CHUNK = re.compile(rb"([0-9a-fA-F]{1,15})\r\n")
SINGLE = {"content-length", "content-type", "transfer-encoding", "x-request-id", "location"}


class InvalidAnswer(Exception):
    """An answer that breaks HTTP/1.1; the text says how."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes
    closes: bool


def read_answer(stream: BinaryIO, *, head_only: bool = False) -> Answer | None:
    """The next answer on a connection; None where it has ended. `head_only`: to a HEAD."""
    first = stream.readline(65536)
    if not first:
        return None
    status_line = STATUS_LINE.fullmatch(first)
    if not status_line:
        raise InvalidAnswer(f"the status line is {first[:80]!r}")
    status, headers = int(status_line[1]), _headers(stream)
    if status < 200:
        return Answer(status, headers, b"", closes=False)
    closes = headers.get("connection", "").lower() == "close"
    chunked, length = "transfer-encoding" in headers, headers.get("content-length")
    if chunked and length is not None:
        raise InvalidAnswer("both a length and chunks")
    if head_only or status in {204, 304}:
        return Answer(status, headers, b"", closes)
    if chunked:
        return Answer(status, headers, _chunks(stream), closes)
    if length is None:
        return Answer(status, headers, stream.read(), closes=True)
    if not length.isdigit():
        raise InvalidAnswer(f"the length is {length!r}")
    body = stream.read(int(length))
    if len(body) < int(length):
        raise InvalidAnswer("a body shorter than its length")
    return Answer(status, headers, body, closes)


def _headers(stream: BinaryIO) -> dict[str, str]:
    headers: dict[str, str] = {}
    while (line := stream.readline(65536)) != b"\r\n":
        found = HEADER.fullmatch(line)
        if not found:
            raise InvalidAnswer(f"a header line is {line[:80]!r}")
        name = found[1].decode().lower()
        if name in headers and name in SINGLE:
            raise InvalidAnswer(f"{name} twice")
        headers[name] = found[2].decode("latin-1").strip()
    return headers


def _chunks(stream: BinaryIO) -> bytes:
    body = b""
    while True:
        line = stream.readline(65536)
        found = CHUNK.fullmatch(line)
        if not found:
            raise InvalidAnswer(
                "a stream without an end" if not line else f"a chunk is {line[:80]!r}"
            )
        size = int(found[1], 16)
        part = stream.read(size)
        if stream.readline(65536) != b"\r\n" or len(part) < size:
            raise InvalidAnswer("a chunk without an end")
        if not size:
            return body
        body += part
