"""Rows as CSV (RFC 4180) that is safe to open in a spreadsheet."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

# A spreadsheet takes a cell that begins like this for a formula (owasp.org: CSV injection).
FORMULA = ("=", "+", "-", "@", "\t", "\r")


def lines(rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """The header line, then a line for each row. Nothing if there are no rows."""
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    header_written = False
    for row in rows:
        if not header_written:
            writer.writerow(row.keys())
            header_written = True
        writer.writerow(map(_cell, row.values()))
        yield buffer.getvalue()
        buffer.seek(0)
        buffer.truncate()


def _cell(value: Any) -> Any:
    if isinstance(value, str) and value.startswith(FORMULA):
        return f"'{value}"
    if isinstance(value, float):
        return f"{value:.9f}".rstrip("0").rstrip(".")
    return value
