"""The request log as CSV."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from webapp import money
from webapp.metering.csv import lines
from webapp.metering.request_outcome import outcome_of

MAX_EXPORTED = 100_000
CHUNK = 500  # lines


def csv_of(rows: Iterator[Any], names: Mapping[int, str], limit: int) -> Iterator[str]:
    """The rows with the names of their keys, in chunks. Of more rows than `limit`, the last line
    says that there are more."""
    written = lines((_line(row, names) for row in islice(rows, limit)), COLUMNS)
    while chunk := "".join(islice(written, CHUNK)):
        yield chunk
    if next(rows, None) is not None:
        yield f"Cut after {limit} requests; there are more. Select a shorter period.\r\n"


COLUMNS = (
    "time", "request_id", "key_id", "key", "endpoint", "outcome", "status", "error", "refused_by",
    "cache", "provider", "asked_model", "model", "answered_model", "tokens", "cost_usd",
    "first_token_milliseconds", "milliseconds", "client",
)  # fmt: skip


def _line(row: Any, names: Mapping[int, str]) -> dict[str, Any]:
    derived = {
        "time": datetime.fromtimestamp(row.at, UTC).isoformat(timespec="milliseconds"),
        "key": names.get(row.key_id),
        "outcome": str(outcome_of(row.status, row.error)),
        "cost_usd": money.to_usd(row.cost_nano),
    }
    stored = row._mapping
    return {name: derived[name] if name in derived else stored[name] for name in COLUMNS}
