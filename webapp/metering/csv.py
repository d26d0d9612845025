"""Rows as CSV (RFC 4180) that is safe to open in a spreadsheet."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

# A cell that begins like this would be taken for a formula (owasp.org: CSV injection).
FORMULA = ("=", "+", "-", "@", "\t", "\r")


def lines(rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """A line with the names, then one for each row; nothing where there is no row."""
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    begun = False
    for row in rows:
        if not begun:
            writer.writerow(row.keys())
            begun = True
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
