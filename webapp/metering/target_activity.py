"""Counters by key, endpoint and target, by minute, half hour and day.

Requests are counted at their end by Traffic, calls by the ledger as they are settled. Calls by day
are in the usage table. A request without a target has no provider and no model ("").
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from sqlalchemy import BigInteger, Column, Connection, Integer, String, Table

from webapp.metering.activity import RETENTION, SPANS, expired_rows, this_minute
from webapp.metering.stored_text import MAX_MODEL_LENGTH, cleaned
from webapp.metering.totals import COUNTED, UsageTotals
from webapp.storage.database import increment, metadata
from webapp.storage.retention import Expired
from webapp.storage.statements import execute_rows

CALLED = (
    "calls", "failed_calls", "input_tokens", "cached_input_tokens", "output_tokens", "cost_nano",
)  # fmt: skip
target_activity = Table(
    "target_activity",
    metadata,
    Column("span", Integer, primary_key=True),  # seconds
    Column("start", BigInteger, primary_key=True),  # Unix seconds
    Column("key_id", Integer, primary_key=True),
    Column("endpoint", String(64), primary_key=True),
    Column("provider", String(32), primary_key=True),
    Column("model", String(256), primary_key=True),
    *(Column(name, BigInteger, nullable=False, server_default="0") for name in (*COUNTED, *CALLED)),
)
_NAMES = target_activity.primary_key.columns.keys()
_NO_CALLS = (0,) * len(CALLED)

NO_TARGET = ("", "")
# So many models that answered a process counts by name, beside those that are configured: some
# servers answer to any name. Further ones are OTHER.
MAX_MODELS = 1_000
# Minute, key id, endpoint, provider and model.
RequestKey = tuple[int, int, str, str, str]


def add_requests(connection: Connection, counted: Mapping[RequestKey, UsageTotals]) -> None:
    """Add requests to all spans, in the order of the primary key, as add_calls() does: writers
    cannot deadlock."""
    sums: dict[tuple[Any, ...], UsageTotals] = {}
    for (minute, *target, model), totals in counted.items():
        for span in SPANS:
            key = (span, minute - minute % span, *target, cleaned(model, MAX_MODEL_LENGTH))
            if key in sums:
                sums[key].add(totals)
            else:
                sums[key] = totals.only(COUNTED)
    rows = [
        dict(zip(_NAMES, key, strict=True)) | {name: getattr(totals, name) for name in COUNTED}
        for key, totals in sorted(sums.items(), key=lambda entry: entry[0])
    ]
    execute_rows(connection, increment(connection, target_activity, COUNTED), rows)


def add_calls(connection: Connection, used: Iterable[Mapping[str, Any]]) -> None:
    """Add settled calls, as rows of the usage table, to the current minute and half hour."""
    minute = this_minute()
    sums: dict[tuple[Any, ...], tuple[int, ...]] = {}
    for row in used:
        target = (row["key_id"], row["endpoint"], row["provider"], row["model"])
        counted = tuple(row[name] for name in _COLUMNS)
        for span in RETENTION:
            key = (span, minute - minute % span, *target)
            before = sums.get(key, _NO_CALLS)
            sums[key] = tuple(map(sum, zip(before, counted, strict=True)))
    names = (*_NAMES, *CALLED)
    rows = [dict(zip(names, key + counted, strict=True)) for key, counted in sorted(sums.items())]
    execute_rows(connection, increment(connection, target_activity, CALLED), rows)


# The columns of the usage table in the order of CALLED.
_COLUMNS = tuple("failed" if name == "failed_calls" else name for name in CALLED)


def expired() -> Expired:
    """The rows that no report reads any more; those of days stay."""
    return target_activity, partial(expired_rows, target_activity)
