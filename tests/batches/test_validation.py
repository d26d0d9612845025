"""Reading input files, without stores: sizes, numbers of lines, positions."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.support.batches import CHAT, jsonl, line
from webapp.api.line_format import OpenAILineFormat
from webapp.batches.batch import NewLine
from webapp.batches.validation import MAX_LINES, Validated, Validation


def validate(content: bytes, *, chunk: int = 64 * 1024) -> tuple[Validated, list[NewLine]]:
    """What the validation finds, and the lines that it inserts."""
    inserted: list[NewLine] = []
    validation = Validation(CHAT, OpenAILineFormat(), lambda _: None, inserted.extend)

    def chunks() -> Iterator[bytes]:
        for start in range(0, len(content), chunk):
            yield content[start : start + chunk]

    return validation.run(chunks()), inserted


def test_a_file_with_more_lines_than_allowed_is_refused_at_the_first_of_them() -> None:
    found, _ = validate(b"".join(jsonl([line(str(number))]) for number in range(MAX_LINES + 1)))
    assert [error["code"] for error in found.errors] == ["too_many_tasks"]
    assert found.total == MAX_LINES


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_lines_are_found_wherever_the_chunks_end(chunk: int) -> None:
    content = b"\xef\xbb\xbf\r\n" + jsonl([line("a"), line("é")]) + b"  \n" + jsonl([line("b")])
    found, inserted = validate(content.rstrip(b"\n"), chunk=chunk)
    assert not found.errors
    assert [(one.number, one.custom_id) for one in inserted] == [(2, "a"), (3, "é"), (5, "b")]
    for one in inserted:
        text = content[one.position : one.position + one.length]
        assert json.loads(text)["custom_id"] == one.custom_id


def test_a_line_that_is_too_long_is_named_and_not_kept_in_memory() -> None:
    most = OpenAILineFormat.max_body
    content = jsonl([line("a")]) + b'"' + b"x" * (most + 10) + b'"\n' + jsonl([line("b")])
    found, _ = validate(content, chunk=1024 * 1024)
    assert [(error["line"], error["code"]) for error in found.errors] == [(2, "line_too_large")]
    assert found.total == 3
