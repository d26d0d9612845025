"""Rows as CSV (RFC 4180) that is safe to open in a spreadsheet."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

# A spreadsheet takes a cell that begins like this for a formula (owasp.org: CSV injection).
FORMULA = ("=", "+", "-", "@", "\t", "\r")


def lines(rows: Iterable[Mapping[str, Any]], columns: Iterable[str] | None = None) -> Iterator[str]:
    """The header line, then a line for each row. Without rows there is a header only if `columns`
    name it."""
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    if columns is not None:
        writer.writerow(columns)
    for row in rows:
        if columns is None:
            columns = row.keys()
            writer.writerow(columns)
        writer.writerow(map(_cell, row.values()))
        yield _taken(buffer)
    if buffer.tell():
        yield _taken(buffer)


def _taken(buffer: io.StringIO) -> str:
    text = buffer.getvalue()
    buffer.seek(0)
    buffer.truncate()
    return text


def _cell(value: Any) -> Any:
    if isinstance(value, str) and value.startswith(FORMULA):
        return f"'{value}"
    if isinstance(value, float):
        return f"{value:.9f}".rstrip("0").rstrip(".")
    return value
