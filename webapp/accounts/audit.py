"""The audit log: who changed what, when and from where, with the values before and after."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    DateTime,
    Integer,
    String,
    Table,
    Text,
    select,
)

from webapp.accounts.keys import zoned
from webapp.storage.database import Database, metadata

audit = Table(
    "audit",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("at", DateTime(timezone=True), nullable=False),
    Column("actor", String(100), nullable=False),
    Column("address", String(64)),
    Column("action", String(50), nullable=False),
    Column("target", String(100), nullable=False),
    Column("before", Text),
    Column("after", Text),
)


@dataclass(frozen=True, slots=True)
class Actor:
    """Who makes a change (an account's name, `cli` or `settings`), and from which address."""

    name: str
    address: str | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """One change. `target` is for example `key-12` or `account-3`. Contains no secrets."""

    id: int
    at: datetime
    actor: str
    address: str | None
    action: str
    target: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None


def record(
    connection: Connection,
    actor: Actor,
    action: str,
    target: str,
    before: Mapping[str, Any] | None,
    after: Mapping[str, Any] | None,
) -> None:
    """Write an event in the transaction of the change. `before` and `after` are JSON-ready."""
    connection.execute(
        audit.insert().values(
            at=datetime.now(UTC),
            actor=actor.name,
            address=actor.address,
            action=action,
            target=target,
            before=None if before is None else json.dumps(before),
            after=None if after is None else json.dumps(after),
        )
    )


class AuditLog:
    """Reads the audit log. May raise StoreUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def latest(
        self, *, target: str | None = None, before_id: int | None = None, count: int = 100
    ) -> list[Event]:
        """Events, newest first, optionally of one target or older than the event `before_id`."""
        query = select(audit).order_by(audit.c.id.desc()).limit(count)
        if target is not None:
            query = query.where(audit.c.target == target)
        if before_id is not None:
            query = query.where(audit.c.id < before_id)
        rows = self._database.read(lambda connection: connection.execute(query).all())
        return [_event(row._asdict()) for row in rows]


def _event(fields: dict[str, Any]) -> Event:
    for side in ("before", "after"):
        fields[side] = None if fields[side] is None else json.loads(fields[side])
    fields["at"] = zoned(fields["at"])
    return Event(**fields)
