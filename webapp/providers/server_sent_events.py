"""Reads server-sent events from bytes as they arrive (HTML standard, section 9.2.6)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

MAX_EVENT_BYTES = 16 * 1024 * 1024
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class EventTooLong(Exception):
    """An event is longer than MAX_EVENT_BYTES."""


def read_events(parts: Iterable[bytes]) -> Iterator[tuple[str, str]]:
    """The type (empty if it has none) and the data of each event, however its bytes are split.

    Lines of data are joined by spaces, as JSON allows, so that they can be passed on in one line.
    An event without data is left out. The last event counts without its blank line only if it is
    `[DONE]`: any other may be cut.
    """
    reading = _Reading()
    for part in parts:
        yield from reading.take(part)
    yield from reading.end()


class _Reading:
    def __init__(self) -> None:
        self._rest = bytearray()  # a line without its end
        self._data: list[bytes] = []
        self._length = 0
        self._type = ""
        self._at_start = True
        self._after_return = False

    def take(self, part: bytes) -> Iterator[tuple[str, str]]:
        if self._after_return and part.startswith(b"\n"):
            part = part[1:]
            self._after_return = False
        if part:
            self._after_return = part.endswith(b"\r")
        if b"\r" in part:
            part = part.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        self._rest += part
        if b"\n" in part:
            *lines, rest = bytes(self._rest).split(b"\n")
            self._rest = bytearray(rest)
            for line in lines:
                if line:
                    self._take_line(line)
                elif self._data:
                    yield self._event()
                else:
                    self._type = ""
        if len(self._rest) + self._length > MAX_EVENT_BYTES:
            raise EventTooLong

    def end(self) -> Iterator[tuple[str, str]]:
        if self._rest:
            self._take_line(bytes(self._rest))
        if [data.strip() for data in self._data] == [b"[DONE]"]:
            yield self._event()

    def _take_line(self, line: bytes) -> None:
        if self._at_start:
            line, self._at_start = line.removeprefix(BYTE_ORDER_MARK), False
        field, _, value = line.partition(b":")
        if field == b"data" and (value := value.strip()):
            self._data.append(value)
            self._length += len(value)
        elif field == b"event":
            self._type = value.strip().decode(errors="replace")

    def _event(self) -> tuple[str, str]:
        event = self._type, b" ".join(self._data).decode(errors="replace")
        self._data.clear()
        self._type, self._length = "", 0
        return event
