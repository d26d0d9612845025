"""Which provider keeps a response, and which key it belongs to."""

from __future__ import annotations

import logging
import time
from typing import Any

from sqlalchemy import Column, Connection, Float, Integer, String, Table, select

from webapp.errors import NotFound, StoreUnavailable
from webapp.storage.database import Database, metadata, upsert
from webapp.storage.retention import Expired

log = logging.getLogger(__name__)

responses = Table(
    "responses",
    metadata,
    # The provider's. Servers may give the same id twice: each key has its own rows.
    Column("id", String(256), primary_key=True),
    Column("key_id", Integer, primary_key=True),
    Column("provider", String(32), nullable=False),
    Column("model", String(256), nullable=False),
    # Unix seconds.
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float, nullable=False),
)

KEPT_FOR = 30 * 86_400.0  # seconds, as OpenAI keeps responses
MAX_UNWRITTEN = 10_000


class ResponseIds:
    """Implements llm.ports.ResponseIds.

    What cannot be written while the database is away is known to this process, and written when the
    database is back: the client has its answer by then.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._unwritten: dict[tuple[str, int], dict[str, Any]] = {}

    def remember(self, response_id: str, key_id: int, provider: str, model: str) -> None:
        now = time.time()
        row = {
            "id": response_id,
            "key_id": key_id,
            "provider": provider,
            "model": model,
            "created_at": now,
            "expires_at": now + KEPT_FOR,
        }
        try:
            self._database.write(lambda connection: _write(connection, [row]))
        except StoreUnavailable:
            log.warning("Response %s is not in the database yet, which is unavailable", response_id)
            if len(self._unwritten) >= MAX_UNWRITTEN:
                lost, _ = oldest = next(iter(self._unwritten))
                del self._unwritten[oldest]
                log.error("Response %s cannot be found any more: too many are unwritten", lost)
            self._unwritten[response_id, key_id] = row

    def target_of(self, response_id: str, key_id: int) -> tuple[str, str]:
        if row := self._unwritten.get((response_id, key_id)):
            return row["provider"], row["model"]
        query = select(responses.c.provider, responses.c.model).where(
            responses.c.id == response_id,
            responses.c.key_id == key_id,
            responses.c.expires_at > time.time(),
        )
        found = None
        if _is_storable(response_id):
            found = self._database.read(lambda connection: connection.execute(query).first())
        if found is None:
            raise NotFound(f"Response with id {response_id!r} not found.")
        return found.provider, found.model

    def forget(self, response_id: str, key_id: int) -> None:
        self._unwritten.pop((response_id, key_id), None)
        delete = responses.delete().where(
            responses.c.id == response_id, responses.c.key_id == key_id
        )
        self._database.write(lambda connection: connection.execute(delete))

    def tick(self) -> None:
        """Write what could not be written before."""
        rows = list(self._unwritten.values())
        if rows:
            self._database.write(lambda connection: _write(connection, rows))
        for row in rows:
            self._unwritten.pop((row["id"], row["key_id"]), None)


def expired() -> Expired:
    """Responses that no provider keeps any more."""
    return responses, lambda now: (responses.c.expires_at < now,)


def _write(connection: Connection, rows: list[dict[str, Any]]) -> None:
    insert = upsert(connection.dialect.name, responses)
    newer = {
        name: insert.excluded[name] for name in ("provider", "model", "created_at", "expires_at")
    }
    connection.execute(
        insert.on_conflict_do_update(index_elements=["id", "key_id"], set_=newer), rows
    )


def _is_storable(text: str) -> bool:
    """Whether a database can look it up."""
    return text.isascii() and text.isprintable() and len(text) <= 256
