"""Idempotency keys in the database: who holds one, and what a finished request was answered.

A running request holds its key by a lease, which its process renews every second; a lease that
ended is anybody's. Only good answers are kept, for a day. All times are the database's.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass

from sqlalchemy import Column, Connection, Float, LargeBinary, String, Table, Text, select

from webapp.errors import IdempotencyInProgress, IdempotencyMismatch
from webapp.storage.database import Database, DatabaseTime, metadata, upsert
from webapp.storage.retention import Expired

keys = Table(
    "idempotency_keys",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("fingerprint", String(64), nullable=False),
    Column("holder", String(36), nullable=False),
    # Unix seconds, as `created_at`.
    Column("leased_until", Float, nullable=False),
    Column("created_at", Float, nullable=False),
    # Of a finished request; both are empty while it runs.
    Column("headers", Text),
    Column("body", LargeBinary),
)

LEASE_TTL = 10.0
RESPONSE_TTL = 86_400.0


@dataclass(frozen=True, slots=True)
class IdempotencyLease:
    """A key that a running request holds."""

    id: str
    holder: str


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """How a request was answered."""

    headers: dict[str, str]
    body: bytes


class IdempotencyStore:
    """Every method raises StoreUnavailable when the database is away."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._leases: set[str] = set()

    def acquire(self, key_id: str, fingerprint: str) -> IdempotencyLease | StoredResponse:
        """Hold the key for a request, or what the finished request with it was answered.

        Raises IdempotencyMismatch where it was used with another body, IdempotencyInProgress while
        the first request runs.
        """
        holder = str(uuid.uuid4())
        found = self._database.write(lambda c: _acquire(c, key_id, fingerprint, holder))
        if found is not None:
            return found
        self._leases.add(holder)
        return IdempotencyLease(key_id, holder)

    def finish(self, lease: IdempotencyLease, headers: dict[str, str], body: bytes) -> None:
        """Keep the answer of the request that held the key."""
        self._leases.discard(lease.holder)
        update = (
            keys.update()
            .where(keys.c.id == lease.id, keys.c.holder == lease.holder)
            .values(headers=json.dumps(headers), body=body)
        )
        self._database.write(lambda connection: connection.execute(update))

    def release(self, lease: IdempotencyLease) -> None:
        """Free the key: what came of the request is not kept."""
        self._leases.discard(lease.holder)
        delete = keys.delete().where(keys.c.id == lease.id, keys.c.holder == lease.holder)
        self._database.write(lambda connection: connection.execute(delete))

    def tick(self) -> None:
        """Renew the leases of what runs here."""
        if self._leases:
            renew = (
                keys.update()
                .where(keys.c.holder.in_(sorted(self._leases)))
                .values(leased_until=DatabaseTime() + LEASE_TTL)
            )
            self._database.write(lambda connection: connection.execute(renew))


def expired() -> Expired:
    """Answers that have been kept for a day; of running requests nothing."""
    now = DatabaseTime()
    return keys, lambda _: (keys.c.created_at < now - RESPONSE_TTL, keys.c.leased_until < now)


def _acquire(
    connection: Connection, key_id: str, fingerprint: str, holder: str
) -> StoredResponse | None:
    """Insert the key or take over a lease that ended: None; or how the request was answered."""
    now = DatabaseTime()
    row = {
        "id": key_id,
        "fingerprint": fingerprint,
        "holder": holder,
        "leased_until": now + LEASE_TTL,
        "created_at": now,
    }
    insert = upsert(connection.dialect.name, keys).values(row)
    insert = insert.on_conflict_do_nothing().returning(keys.c.id)
    if connection.execute(insert).first():
        return None
    ages = (
        (keys.c.created_at < now - RESPONSE_TTL).label("too_old"),
        (keys.c.leased_until >= now).label("leased"),
    )
    query = select(keys, *ages).where(keys.c.id == key_id).with_for_update()
    known = connection.execute(query).first()
    if known is None:  # freed just now
        raise IdempotencyInProgress
    finished = known.body is not None
    if not known.too_old or (not finished and known.leased):
        if known.fingerprint != fingerprint:
            raise IdempotencyMismatch
        if finished:
            return StoredResponse(json.loads(known.headers), known.body)
        if known.leased:
            raise IdempotencyInProgress
    connection.execute(
        keys.update().where(keys.c.id == key_id).values(**row, headers=None, body=None)
    )
    return None
