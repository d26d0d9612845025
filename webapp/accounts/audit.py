"""The audit log: who changed what, when and from where, with the values before and after."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
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

from webapp.accounts.account_table import accounts
from webapp.accounts.keys import api_keys, zoned
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

ACTIONS = (
    "account.change", "account.create", "account.password", "account.sign_out",
    "batch.cancel", "batch.start", "job.cancel",
    "key.change", "key.create", "key.increase_budget", "key.restore", "key.revoke", "key.rotate",
    "prices.update",
)  # fmt: skip
KEY, ACCOUNT = "key-", "account-"  # how their targets begin


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


@dataclass(frozen=True, slots=True)
class EventFilter:
    """What events are restricted to; None does not restrict. `since` is included, `until` not."""

    targets: Collection[str] | None = None
    actor: str | None = None
    action: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    def conditions(self) -> list[Any]:
        conditions = [
            (audit.c.target.in_, self.targets),
            (audit.c.actor.__eq__, self.actor),
            (audit.c.action.__eq__, self.action),
            (audit.c.at.__ge__, self.since),
            (audit.c.at.__lt__, self.until),
        ]
        return [condition(value) for condition, value in conditions if value is not None]


EVERYTHING = EventFilter()


@dataclass(frozen=True, slots=True)
class EventNames:
    """The names of the keys and accounts in `targets`; the ids of `actors` that are accounts."""

    targets: dict[str, str]
    actors: dict[str, int]


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
        self, wanted: EventFilter = EVERYTHING, *, before_id: int | None = None, count: int = 100
    ) -> list[Event]:
        """Events, newest first, optionally older than the event `before_id`."""
        query = select(audit).order_by(audit.c.id.desc()).limit(count)
        query = query.where(*wanted.conditions())
        if before_id is not None:
            query = query.where(audit.c.id < before_id)
        rows = self._database.read(lambda connection: connection.execute(query).all())
        return [_event(row._asdict()) for row in rows]

    def targets_named(self, text: str) -> list[str]:
        """`text` itself, and the targets of the keys and accounts with this name."""
        keys = select(api_keys.c.id).where(api_keys.c.name == text, api_keys.c.origin != "account")
        named = select(accounts.c.id).where(accounts.c.username == text.lower())

        def work(connection: Connection) -> list[str]:
            return [
                text,
                *(f"{KEY}{key_id}" for key_id in connection.execute(keys).scalars()),
                *(f"{ACCOUNT}{account_id}" for account_id in connection.execute(named).scalars()),
            ]

        return self._database.read(work)

    def names(self, events: Collection[Event]) -> EventNames:
        key_ids = _ids(KEY, events)
        account_ids, actors = _ids(ACCOUNT, events), {event.actor for event in events}
        keys = select(api_keys.c.id, api_keys.c.name).where(api_keys.c.id.in_(key_ids))
        columns = select(accounts.c.id, accounts.c.username)
        people = columns.where(accounts.c.id.in_(account_ids) | accounts.c.username.in_(actors))

        def work(connection: Connection) -> EventNames:
            targets = {f"{KEY}{row.id}": row.name for row in connection.execute(keys)}
            found = connection.execute(people).all()
            targets |= {f"{ACCOUNT}{row.id}": row.username for row in found}
            return EventNames(targets, {row.username: row.id for row in found})

        return self._database.read(work)


def _ids(prefix: str, events: Collection[Event]) -> set[int]:
    """The ids in the targets that begin like this."""
    targets = (event.target for event in events)
    return {int(target[len(prefix) :]) for target in targets if target.startswith(prefix)}


def _event(fields: dict[str, Any]) -> Event:
    for side in ("before", "after"):
        fields[side] = None if fields[side] is None else json.loads(fields[side])
    fields["at"] = zoned(fields["at"])
    return Event(**fields)
