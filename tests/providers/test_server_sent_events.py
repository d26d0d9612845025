"""Server-sent events are read as the HTML standard says, however their bytes are split."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from webapp.providers.server_sent_events import MAX_EVENT_BYTES, EventTooLong, read_events

EVERYTHING = (
    b"\xef\xbb\xbf: a comment\r\n"
    b'data: {"a":\r\ndata:1}\r\n\r\n'
    b"event: error\rdata: x\r\r"
    b"id: 7\nretry: 10\n\n"
    b"event: forgotten\n\n"
    b"data\n\ndata:\n\n"
    b"data: \xc3\xa9 \xf0\x9f\x98\x80\n\n"
    b"data:  two spaces\n\n"
    b"unknown: field\ndata: known\n\n"
    b"data: [DONE]"
)
READ = [
    ("", '{"a": 1}'),
    ("error", "x"),
    ("", "é 😀"),
    ("", "two spaces"),
    ("", "known"),
    ("", "[DONE]"),
]


def split(content: bytes, size: int) -> Iterator[bytes]:
    return (content[start : start + size] for start in range(0, len(content), size))


@pytest.mark.parametrize("size", range(1, len(EVERYTHING) + 1))
def test_events_do_not_depend_on_how_their_bytes_arrive(size: int) -> None:
    assert list(read_events(split(EVERYTHING, size))) == READ


def test_an_event_is_read_before_the_next_bytes_arrive() -> None:
    arrived = []

    def parts() -> Iterator[bytes]:
        for part in (b"data: 1\r\r", b"data: 2\n", b"\ndata: 3\n\n"):
            arrived.append(part)
            yield part

    assert [(data, len(arrived)) for _, data in read_events(parts())] == [
        ("1", 1), ("2", 3), ("3", 3),
    ]  # fmt: skip


@pytest.mark.parametrize("rest", [b'data: {"a": 1}', b'data: {"a": 1}\n', b"data: [DO"])
def test_what_may_be_cut_is_no_event(rest: bytes) -> None:
    assert list(read_events([b"data: 1\n\n" + rest])) == [("", "1")]


def test_bytes_that_are_not_utf_8_are_replaced() -> None:
    assert list(read_events([b"data: \xff\n\n"])) == [("", "\ufffd")]


@pytest.mark.parametrize("line", [b"data: ", b": "])
def test_a_longer_event_is_refused(line: bytes) -> None:
    block = b"x" * 65_536
    longest = MAX_EVENT_BYTES // len(block) - 1
    read = list(read_events([b"data: ", *[block] * longest, b"\n\n"]))
    assert len(read[0][1]) == longest * len(block)
    with pytest.raises(EventTooLong):
        list(read_events([line, *[block] * (longest + 2)]))
    lines = [line + b"x\n"] * 3 if line == b": " else [line + block + b"\n"] * (longest + 2)
    if line == b": ":
        assert list(read_events(lines)) == []
    else:
        with pytest.raises(EventTooLong):
            list(read_events(lines))
