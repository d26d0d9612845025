"""The keys of API_KEYS: at each start they are made to work, by name, as the setting has them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import Connection, select, update

from webapp.accounts import audit
from webapp.accounts.audit import Actor
from webapp.accounts.key_changes import facts_of, one_at_a_time
from webapp.accounts.keys import (
    ApiKey,
    api_keys,
    digest,
    insert_secret,
    key_of,
    key_row,
    key_secrets,
    now,
)
from webapp.observability.masking import mask
from webapp.setting_parsers import ConfiguredKey
from webapp.storage.database import Database

ACTOR = Actor("settings")


def sync_configured_keys(database: Database, configured: Iterable[ConfiguredKey]) -> None:
    """Make the keys of API_KEYS, by name, those that work. Raises StoreUnavailable.

    One that is no longer there is revoked, and works again when it comes back. What an operator
    revoked stays revoked until the secret changes.
    """
    wanted = list(configured)

    def work(connection: Connection) -> None:
        one_at_a_time(connection)
        for key in wanted:
            _sync_one(connection, key)
        query = select(api_keys).where(
            api_keys.c.origin == "settings",
            api_keys.c.revoked_at.is_(None),
            api_keys.c.name.not_in([key.name for key in wanted]),
        )
        for row in connection.execute(query).mappings().all():
            values = {"revoked_at": now(), "revoked_by": "settings"}
            _change(connection, "key.revoke", key_of(dict(row)), values)

    database.write(work)


def _sync_one(connection: Connection, wanted: ConfiguredKey) -> None:
    """The key of this name gets this secret, and no other one of it works."""
    ours = (api_keys.c.origin == "settings", api_keys.c.name == wanted.name)
    wanted_digest = digest(wanted.secret)
    connection.execute(
        key_secrets.delete().where(
            key_secrets.c.digest == wanted_digest,
            key_secrets.c.key_id.not_in(select(api_keys.c.id).where(*ours)),
        )
    )
    row = connection.execute(select(api_keys).where(*ours)).mappings().first()
    if row is None:
        _create(connection, wanted, wanted_digest)
        return
    key = key_of(dict(row))
    theirs = key_secrets.c.key_id == key.id
    known = select(key_secrets.c.digest).where(theirs, key_secrets.c.digest == wanted_digest)
    works_again: dict[str, Any] = {"revoked_at": None, "revoked_by": None}
    if connection.execute(known).first() is None:
        connection.execute(key_secrets.delete().where(theirs))
        insert_secret(connection, key.id, wanted_digest, mask(wanted.secret))
        values = {"tier": wanted.tier, "mask": mask(wanted.secret)} | works_again
        _change(connection, "key.rotate", key, values)
    elif row["revoked_by"] == "settings":
        _change(connection, "key.restore", key, {"tier": wanted.tier} | works_again)
    elif key.tier != wanted.tier:
        _change(connection, "key.change", key, {"tier": wanted.tier})


def _create(connection: Connection, wanted: ConfiguredKey, wanted_digest: str) -> None:
    row = key_row(wanted.name, wanted.tier, mask(wanted.secret), "settings")
    inserted = connection.execute(api_keys.insert().values(row).returning(api_keys))
    key = key_of(dict(inserted.mappings().one()))
    insert_secret(connection, key.id, wanted_digest, key.mask)
    audit.record(connection, ACTOR, "key.create", f"key-{key.id}", None, facts_of(connection, key))


def _change(connection: Connection, action: str, before: ApiKey, values: Mapping[str, Any]) -> None:
    of_key = api_keys.c.id == before.id
    connection.execute(update(api_keys).where(of_key).values(values))
    after = key_of(dict(connection.execute(select(api_keys).where(of_key)).mappings().one()))
    facts = facts_of(connection, before), facts_of(connection, after)
    audit.record(connection, ACTOR, action, f"key-{before.id}", *facts)
