"""The request log: a row for each request with a key, written every second, stored for some days.

It contains no prompts and answers unless LOG_PROMPTS is on.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass
from functools import partial
from typing import Any

from sqlalchemy import BigInteger, Column, Connection, Float, Integer, String, Table, Text, insert

from webapp.errors import StoreUnavailable
from webapp.metering.stored_text import MAX_MODEL_LENGTH, cleaned
from webapp.observability.redaction import MAX_STORED_LENGTH
from webapp.storage.database import Database, metadata
from webapp.storage.retention import Expired
from webapp.storage.statements import execute_rows

log = logging.getLogger(__name__)

MAX_ROUTE_LENGTH = 300
MAX_CLIENT_LENGTH = 200
MAX_CLIENT_QUEUED = 2 * MAX_CLIENT_LENGTH  # what cannot be printed is left out as it is written
MAX_REQUEST_ID_LENGTH = 128

requests = Table(
    "requests",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("at", Float, nullable=False),  # Unix seconds when the request ended
    Column("request_id", String(MAX_REQUEST_ID_LENGTH), nullable=False),
    Column("key_id", Integer, nullable=False),
    Column("endpoint", String(64), nullable=False),
    Column("status", Integer, nullable=False),
    Column("cache", String(10)),
    Column("provider", String(32)),
    Column("model", String(MAX_MODEL_LENGTH)),
    Column("tokens", BigInteger),
    Column("cost_nano", BigInteger),
    Column("milliseconds", Float, nullable=False),
    Column("error", String(40)),
    # The names of the model that the client asked for, and of the one that answered.
    Column("asked_model", String(MAX_ROUTE_LENGTH)),
    Column("answered_model", String(MAX_MODEL_LENGTH)),
    Column("first_token_milliseconds", Float),  # of a stream
    Column("client", String(MAX_CLIENT_LENGTH)),  # User-Agent
    Column("refused_by", String(30)),  # a limit, one of observability.refusals
    # Both only if LOG_PROMPTS is on.
    Column("prompt", Text),
    Column("answer", Text),
)
MODELS = (requests.c.model, requests.c.asked_model, requests.c.answered_model)
MODEL_LENGTHS = (MAX_MODEL_LENGTH, MAX_ROUTE_LENGTH, MAX_MODEL_LENGTH)

# In the column `cache`, of an answer that was stored for its Idempotency-Key.
REPLAYED = "REPLAYED"

# While the database is unavailable, this many are queued; then the oldest are dropped.
MAX_QUEUED = 20_000
WRITE_BATCH = 500
DAY = 86_400  # seconds


@dataclass(frozen=True, slots=True)
class LoggedRequest:
    """A finished request. `at` is Unix seconds, `cost_nano` is None if unknown, `prompt` and
    `answer` have been cut()."""

    at: float
    request_id: str
    key_id: int
    endpoint: str
    status: int
    cache: str | None
    provider: str | None
    model: str | None
    tokens: int | None
    cost_nano: int | None
    milliseconds: float
    error: str | None
    asked_model: str | None = None
    answered_model: str | None = None
    first_token_milliseconds: float | None = None
    client: str | None = None
    refused_by: str | None = None
    prompt: str | None = None
    answer: str | None = None


class RequestLog:
    """Queues requests and writes them."""

    def __init__(self, database: Database, keep_days: int) -> None:
        self._database = database
        self._keep_days = keep_days
        self._waiting: deque[LoggedRequest] = deque(maxlen=MAX_QUEUED)

    def add(self, request: LoggedRequest) -> None:
        """Queue a request for the next flush."""
        if self._keep_days:
            self._waiting.append(request)

    def flush(self) -> None:
        """Write the queued requests. If StoreUnavailable is raised, they stay queued."""
        while self._waiting:
            size = min(WRITE_BATCH, len(self._waiting))
            writing = [self._waiting.popleft() for _ in range(size)]
            rows = [_row(request) for request in writing]
            try:
                self._database.write(partial(_insert, rows))
            except StoreUnavailable:
                room = MAX_QUEUED - len(self._waiting)
                self._waiting.extendleft(reversed(writing[-room:] if room else []))
                raise
            except Exception:
                # Not queued again: another attempt would fail in the same way.
                log.exception("%d requests could not be written to the request log", len(rows))


def expired(keep_days: int) -> Expired:
    """Rows that are older than `keep_days`."""
    return requests, lambda now: (requests.c.at < now - keep_days * DAY,)


_INSERT = insert(requests)


def _insert(rows: list[dict[str, Any]], connection: Connection) -> None:
    execute_rows(connection, _INSERT, rows)


def cut(text: str | None) -> str | None:
    """The part of a prompt or an answer that is stored."""
    return None if text is None else text[:MAX_STORED_LENGTH]


def _row(request: LoggedRequest) -> dict[str, Any]:
    """A row for the table. Texts are cleaned, as a provider may send what databases refuse."""
    row = {name: getattr(request, name) for name in LoggedRequest.__slots__}
    if request.client is not None:
        client = request.client
        if not client.isprintable():
            client = "".join(filter(str.isprintable, client))
        row["client"] = cleaned(client, MAX_CLIENT_LENGTH)
    for column, length in zip(MODELS, MODEL_LENGTHS, strict=True):
        if row[column.name] is not None:
            row[column.name] = cleaned(row[column.name], length)
    if request.prompt is not None:
        row["prompt"] = cleaned(request.prompt, MAX_STORED_LENGTH)
        row["answer"] = cleaned(request.answer or "", MAX_STORED_LENGTH)
    return row
