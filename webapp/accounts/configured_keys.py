"""Keys from API_KEYS: synchronizes them with the database at each start, by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import Connection, select, update

from webapp.accounts import audit
from webapp.accounts.audit import Actor
from webapp.accounts.key_changes import lock_key_changes
from webapp.accounts.key_listing import key_to_dict
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
    """Create, rotate, restore and revoke keys so that they match API_KEYS, by name.

    A key that is no longer listed is revoked, and restored when it is listed again. A key that an
    operator revoked stays revoked until its secret changes. May raise StoreUnavailable.
    """
    wanted = list(configured)

    def work(connection: Connection) -> None:
        lock_key_changes(connection)
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
    """Give the key of this name this secret, as its only one."""
    same_key = (api_keys.c.origin == "settings", api_keys.c.name == wanted.name)
    wanted_digest = digest(wanted.secret)
    connection.execute(
        key_secrets.delete().where(
            key_secrets.c.digest == wanted_digest,
            key_secrets.c.key_id.not_in(select(api_keys.c.id).where(*same_key)),
        )
    )
    row = connection.execute(select(api_keys).where(*same_key)).mappings().first()
    if row is None:
        _create(connection, wanted, wanted_digest)
        return
    key = key_of(dict(row))
    of_key = key_secrets.c.key_id == key.id
    known = select(key_secrets.c.digest).where(of_key, key_secrets.c.digest == wanted_digest)
    unrevoked: dict[str, Any] = {"revoked_at": None, "revoked_by": None}
    if connection.execute(known).first() is None:
        connection.execute(key_secrets.delete().where(of_key))
        insert_secret(connection, key.id, wanted_digest, mask(wanted.secret))
        values = {"tier": wanted.tier, "mask": mask(wanted.secret)} | unrevoked
        _change(connection, "key.rotate", key, values)
    elif row["revoked_by"] == "settings":
        _change(connection, "key.restore", key, {"tier": wanted.tier} | unrevoked)
    elif key.tier != wanted.tier:
        _change(connection, "key.change", key, {"tier": wanted.tier})


def _create(connection: Connection, wanted: ConfiguredKey, wanted_digest: str) -> None:
    row = key_row(wanted.name, wanted.tier, mask(wanted.secret), "settings")
    inserted = connection.execute(api_keys.insert().values(row).returning(api_keys))
    key = key_of(dict(inserted.mappings().one()))
    insert_secret(connection, key.id, wanted_digest, key.mask)
    after = key_to_dict(connection, key)
    audit.record(connection, ACTOR, "key.create", f"key-{key.id}", None, after)


def _change(connection: Connection, action: str, before: ApiKey, values: Mapping[str, Any]) -> None:
    of_key = api_keys.c.id == before.id
    connection.execute(update(api_keys).where(of_key).values(values))
    after = key_of(dict(connection.execute(select(api_keys).where(of_key)).mappings().one()))
    audit.record(
        connection,
        ACTOR,
        action,
        f"key-{before.id}",
        key_to_dict(connection, before),
        key_to_dict(connection, after),
    )
