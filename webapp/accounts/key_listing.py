"""Lists keys, as clients, commands and pages show them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, exists, select

from webapp import money
from webapp.accounts.account_table import accounts
from webapp.accounts.accounts import USERNAME
from webapp.accounts.keys import (
    LARGEST_ID,
    ApiKey,
    api_keys,
    key_of,
    key_secrets,
    now,
    owner_disabled,
    unexpired,
    working,
    zoned,
)
from webapp.allowance import shown
from webapp.errors import NotFound, ValidationError
from webapp.storage.database import Database

ORIGINS = ("operator", "settings")
# A key is disabled while the account that owns it is.
WORKS, DISABLED, EXPIRED, REVOKED = "works", "disabled", "expired", "revoked"
STATES = (WORKS, DISABLED, EXPIRED, REVOKED)

# In a filter. No username is empty.
NO_OWNER = ""

KeyDict = dict[str, Any]


@dataclass(frozen=True, slots=True)
class KeyFilter:
    """Which keys to list; None matches all.

    `text` is any part of a name or a mask, in any case. The owner NO_OWNER stands for no owner.
    """

    text: str | None = None
    tier: str | None = None
    owner: str | None = None
    state: str | None = None


class KeyListing:
    """Reads keys. Methods may raise StoreUnavailable, NotFound, or ValidationError for an owner."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def all(
        self,
        *,
        owner: str | None = None,
        origin: str | None = None,
        state: str | None = None,
        after_id: int = 0,
        count: int | None = None,
    ) -> list[KeyDict]:
        """All keys by id, optionally of one owner, one of ORIGINS or one of STATES."""

        def work(connection: Connection) -> list[KeyDict]:
            query = select(api_keys).where(api_keys.c.origin != "account", api_keys.c.id > after_id)
            if owner is not None:
                query = query.where(api_keys.c.owner_id == owner_id_of(connection, owner))
            if origin is not None:
                query = query.where(api_keys.c.origin == origin)
            if state is not None:
                query = query.where(*_in_state(state))
            rows = connection.execute(query.order_by(api_keys.c.id).limit(count)).mappings()
            owners = _owners(connection)
            return [_to_dict(key_of(dict(row)), owners) for row in rows]

        return self._database.read(work)

    def matching(self, wanted: KeyFilter) -> list[tuple[int, str]]:
        """Id and name of all keys that match, by name."""

        def work(connection: Connection) -> list[tuple[int, str, str]]:
            columns = (api_keys.c.id, api_keys.c.name, api_keys.c.mask)
            query = select(*columns).where(api_keys.c.origin != "account")
            if wanted.tier is not None:
                query = query.where(api_keys.c.tier == wanted.tier)
            if wanted.owner is not None:
                owner_id = owner_id_of(connection, wanted.owner or None)
                query = query.where(api_keys.c.owner_id == owner_id)
            if wanted.state is not None:
                query = query.where(*_in_state(wanted.state))
            return [(row.id, row.name, row.mask) for row in connection.execute(query)]

        # Compared here, as the databases fold the case of different letters.
        part = (wanted.text or "").casefold()
        found = [
            (key_id, name)
            for key_id, name, shown_as in self._database.read(work)
            if part in name.casefold() or part in shown_as.casefold()
        ]
        return sorted(found, key=lambda key: (key[1].casefold(), key[0]))

    def with_ids(self, key_ids: Sequence[int]) -> list[KeyDict]:
        """The keys with these ids, in this order."""

        def work(connection: Connection) -> list[KeyDict]:
            rows = connection.execute(select(api_keys).where(api_keys.c.id.in_(key_ids)))
            owners = _owners(connection)
            return [_to_dict(key_of(dict(row)), owners) for row in rows.mappings()]

        keys = {key["id"]: key for key in self._database.read(work)}
        return [keys[key_id] for key_id in key_ids if key_id in keys]

    def owners(self) -> list[str]:
        """The usernames of all accounts that own a key."""
        owning = exists().where(api_keys.c.owner_id == accounts.c.id)
        query = select(accounts.c.username).where(owning).order_by(accounts.c.username)
        return list(self._database.read(lambda connection: connection.scalars(query).all()))

    def show(self, key_id: int) -> KeyDict:
        """A key, with the masks of its secrets."""

        def work(connection: Connection) -> KeyDict:
            key = existing_key(connection, key_id)
            rows = connection.execute(
                select(key_secrets).where(key_secrets.c.key_id == key_id)
                .order_by(key_secrets.c.created_at)
            )  # fmt: skip
            secrets = [
                {
                    "key": row.mask,
                    "created_at": zoned(row.created_at).isoformat(),
                    "expires_at": row.expires_at and zoned(row.expires_at).isoformat(),
                }
                for row in rows
            ]
            return key_to_dict(connection, key) | {"secrets": secrets}

        return self._database.read(work)


def key_to_dict(connection: Connection, key: ApiKey) -> KeyDict:
    """The key for clients and the audit log: JSON-ready, amounts in USD, without secrets."""
    owner = accounts.c.id == key.owner_id
    return _to_dict(key, _owners(connection, owner) if key.owner_id else {})


def existing_key(connection: Connection, key_id: int) -> ApiKey:
    """Raises NotFound."""
    query = select(api_keys).where(api_keys.c.id == key_id, api_keys.c.origin != "account")
    row = connection.execute(query).mappings().first() if 0 < key_id <= LARGEST_ID else None
    if row is None:
        raise NotFound(f"Key {key_id} not found.")
    return key_of(dict(row))


def owner_id_of(connection: Connection, owner: str | None) -> int | None:
    """The id of the account with this name. Raises ValidationError."""
    if owner is None:
        return None
    query = select(accounts.c.id).where(accounts.c.username == owner.lower())
    # A string that is no valid name may not be a valid query parameter either.
    is_valid = USERNAME.fullmatch(owner.lower())
    found = connection.execute(query).scalar() if is_valid else None
    if found is None:
        raise ValidationError(
            "The request is not valid: owner.", details={"owner": [f"Account {owner!r} not found."]}
        )
    return int(found)


def _in_state(state: str) -> list[Any]:
    if state == WORKS:
        return working()
    if state == REVOKED:
        return [api_keys.c.revoked_at.is_not(None)]
    unrevoked = api_keys.c.revoked_at.is_(None)
    if state == EXPIRED:
        return [unrevoked, api_keys.c.expires_at <= now()]
    return [unrevoked, unexpired(), owner_disabled()]


def _owners(connection: Connection, *where: Any) -> dict[int, Any]:
    """Name and `disabled_at` of accounts, by id."""
    query = select(accounts.c.id, accounts.c.username, accounts.c.disabled_at).where(*where)
    return {row.id: row for row in connection.execute(query)}


def _to_dict(key: ApiKey, owners: Mapping[int, Any]) -> KeyDict:
    owner = owners.get(key.owner_id) if key.owner_id else None
    values: KeyDict = {
        "id": key.id,
        "name": key.name,
        "key": key.mask,
        "tier": key.tier,
        "origin": key.origin,
        "state": _state(key, owner_is_disabled=bool(owner and owner.disabled_at)),
        "owner": owner and owner.username,
        "limits": shown(key.overrides),
        "created_at": key.created_at.isoformat(),
        "expires_at": key.expires_at and key.expires_at.isoformat(),
        "revoked_at": key.revoked_at and key.revoked_at.isoformat(),
    }
    if key.increase_nano and key.increase_until:
        until = key.increase_until.isoformat()
        values["budget_increase"] = {"usd": money.to_usd(key.increase_nano), "until": until}
    return values


def _state(key: ApiKey, *, owner_is_disabled: bool) -> str:
    if key.revoked_at is not None:
        return REVOKED
    if key.expires_at is not None and key.expires_at <= now():
        return EXPIRED
    return DISABLED if owner_is_disabled else WORKS
