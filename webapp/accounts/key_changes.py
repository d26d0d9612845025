"""The life of a key: made, changed, rotated, revoked. Every change is audited."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, select, update

from webapp import money
from webapp.accounts import audit
from webapp.accounts.accounts import accounts
from webapp.accounts.audit import Actor
from webapp.accounts.keys import (
    ApiKey,
    api_keys,
    digest,
    generate,
    insert_secret,
    key_of,
    key_row,
    key_secrets,
    now,
    zoned,
)
from webapp.allowance import parse_overrides, shown
from webapp.errors import Conflict, NotFound, ValidationError
from webapp.observability.masking import mask
from webapp.storage.database import Database

DEFAULT_GRACE = 86_400
LONGEST_GRACE = 30 * 86_400
SHORTEST_SECRET = 16


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key to be made. `secret` is one that clients have already; None makes one."""

    name: str
    tier: str
    owner: str | None = None
    limits: Mapping[str, Any] | None = None
    expires_at: datetime | None = None
    secret: str | None = None


class KeyChanges:
    """Changes keys by id, on behalf of an Actor, and says what they are.

    All verbs raise StoreUnavailable, NotFound, Conflict, and ValidationError that names the field.
    """

    def __init__(self, database: Database, tiers: Mapping[str, object]) -> None:
        self._database = database
        self._tiers = tiers

    def all(
        self, *, owner: str | None = None, after_id: int = 0, count: int = 1000
    ) -> list[dict[str, Any]]:
        """The facts of the keys of everybody, or of one owner, by id."""

        def work(connection: Connection) -> list[dict[str, Any]]:
            query = select(api_keys).where(api_keys.c.origin != "account", api_keys.c.id > after_id)
            if owner is not None:
                query = query.where(api_keys.c.owner_id == _owner_id(connection, owner))
            rows = connection.execute(query.order_by(api_keys.c.id).limit(count)).mappings()
            names = _usernames(connection)
            return [_facts(key_of(dict(row)), names) for row in rows]

        return self._database.read(work)

    def show(self, key_id: int) -> dict[str, Any]:
        """The facts of a key, with its secrets' masks."""

        def work(connection: Connection) -> dict[str, Any]:
            key = _existing(connection, key_id)
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
            return _facts(key, _usernames(connection)) | {"secrets": secrets}

        return self._database.read(work)

    def create(self, actor: Actor, new: NewKey) -> tuple[dict[str, Any], str]:
        """A new key's facts, and its secret, which is not kept and cannot be shown again."""
        [(facts, secret)] = self.create_all(actor, [new])
        return facts, secret

    def create_all(self, actor: Actor, keys: Iterable[NewKey]) -> list[tuple[dict[str, Any], str]]:
        """As create(): all of them or none."""
        wanted = list(keys)
        for new in wanted:
            self._check(new.name, new.tier)
            if new.secret is not None and len(new.secret) < SHORTEST_SECRET:
                raise _invalid("key", f"Must have at least {SHORTEST_SECRET} characters.")

        def work(connection: Connection) -> list[tuple[dict[str, Any], str]]:
            return [_create(connection, actor, new) for new in wanted]

        return self._database.write(work)

    def change(self, actor: Actor, key_id: int, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Change `name`, `tier`, `owner` (a username or None), `limits` or `expires_at`."""
        self._check(changes.get("name"), changes.get("tier"))

        def values(connection: Connection, key: ApiKey) -> dict[str, Any]:
            plain = {n: changes[n] for n in ("name", "tier", "expires_at") if n in changes}
            if "name" in changes and changes["name"] != key.name:
                _check_name(connection, changes["name"])
            if "owner" in changes:
                plain["owner_id"] = _owner_id(connection, changes["owner"])
            if "limits" in changes:
                plain["overrides"] = json.dumps(_merged(key.overrides, changes["limits"]))
            return plain

        return self._change(actor, "key.change", key_id, values)

    def increase_budget(
        self, actor: Actor, key_id: int, usd: Any, until: datetime
    ) -> dict[str, Any]:
        """Raise each of its budgets by an amount, until a moment; 0 ends it."""
        try:
            nano = money.to_nano(usd)
        except ValueError as error:
            raise _invalid("usd", str(error)) from None
        values = {"increase_nano": nano or None, "increase_until": until if nano else None}
        return self._change(actor, "key.increase_budget", key_id, lambda *_: values)

    def rotate(
        self, actor: Actor, key_id: int, grace: int = DEFAULT_GRACE
    ) -> tuple[dict[str, Any], str]:
        """A new secret; the one before works for `grace` more seconds, any older one no more."""
        if not 0 <= grace <= LONGEST_GRACE:
            raise _invalid("grace", f"Must be 0 to {LONGEST_GRACE} seconds.")
        secret = generate()

        def values(connection: Connection, key: ApiKey) -> dict[str, Any]:
            if key.origin == "settings":
                raise Conflict("This key's secret stands in API_KEYS: change it there.")
            theirs = key_secrets.c.key_id == key_id
            older = key_secrets.c.expires_at.is_not(None) if grace else theirs
            connection.execute(key_secrets.delete().where(theirs, older))
            ends = now() + timedelta(seconds=grace)
            connection.execute(update(key_secrets).where(theirs).values(expires_at=ends))
            insert_secret(connection, key_id, secret)
            return {"mask": mask(secret)}

        return self._change(actor, "key.rotate", key_id, values), secret

    def revoke(self, actor: Actor, key_id: int) -> dict[str, Any]:
        """It stops working everywhere within 5 s, for good."""
        values = {"revoked_at": now(), "revoked_by": "operator"}
        return self._change(actor, "key.revoke", key_id, lambda *_: values)

    def _change(self, actor: Actor, action: str, key_id: int, values: Any) -> dict[str, Any]:
        def work(connection: Connection) -> dict[str, Any]:
            locked = select(api_keys.c.id).where(api_keys.c.id == key_id).with_for_update()
            connection.execute(locked)
            before = _existing(connection, key_id)
            if before.revoked_at is not None:
                raise Conflict("This key is revoked.")
            changed = values(connection, before)
            if changed:
                connection.execute(update(api_keys).where(api_keys.c.id == key_id).values(changed))
            names = _usernames(connection)
            facts = _facts(before, names), _facts(_existing(connection, key_id), names)
            audit.record(connection, actor, action, f"key-{key_id}", *facts)
            return facts[1]

        return self._database.write(work)

    def _check(self, name: str | None, tier: str | None) -> None:
        if name is not None and not (1 <= len(name) <= 100 and name.isprintable()):
            raise _invalid("name", "Must be 1 to 100 printable characters.")
        if tier is not None and tier not in self._tiers:
            raise _invalid("tier", f"Must be one of {', '.join(self._tiers)}, not {tier!r}.")


def _create(connection: Connection, actor: Actor, new: NewKey) -> tuple[dict[str, Any], str]:
    _check_name(connection, new.name)
    secret = new.secret or generate()
    taken = select(key_secrets.c.key_id).where(key_secrets.c.digest == digest(secret))
    if connection.execute(taken).first():
        raise Conflict("There is a key with this secret already.")
    row = key_row(new.name, new.tier, mask(secret), "operator") | {
        "owner_id": _owner_id(connection, new.owner),
        "overrides": json.dumps(_merged({}, new.limits or {})),
        "expires_at": new.expires_at,
    }
    key_id = connection.execute(api_keys.insert().values(row).returning(api_keys.c.id)).scalar_one()
    insert_secret(connection, key_id, secret)
    facts = _facts(_existing(connection, key_id), _usernames(connection))
    audit.record(connection, actor, "key.create", f"key-{key_id}", None, facts)
    return facts, secret


def _check_name(connection: Connection, name: str) -> None:
    """Names are unique among the keys that work, so that people can tell them apart.

    Of two that are made at once, the lock on the first key in the table lets one go first.
    """
    connection.execute(select(api_keys.c.id).order_by(api_keys.c.id).limit(1).with_for_update())
    working = (api_keys.c.name == name, api_keys.c.revoked_at.is_(None))
    of_keys = api_keys.c.origin != "account"
    if connection.execute(select(api_keys.c.id).where(*working, of_keys)).first():
        raise Conflict(f"There is a working key {name!r} already.")


def _existing(connection: Connection, key_id: int) -> ApiKey:
    query = select(api_keys).where(api_keys.c.id == key_id, api_keys.c.origin != "account")
    row = connection.execute(query).mappings().first()
    if row is None:
        raise NotFound(f"There is no key {key_id}.")
    return key_of(dict(row))


def _merged(overrides: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    try:
        merged = {**overrides, **parse_overrides(changes)}
    except ValueError as error:
        raise _invalid("limits", str(error)) from None
    return {name: value for name, value in merged.items() if value is not None}


def _owner_id(connection: Connection, owner: str | None) -> int | None:
    if owner is None:
        return None
    query = select(accounts.c.id).where(accounts.c.username == owner.lower())
    found = connection.execute(query).scalar()
    if found is None:
        raise _invalid("owner", f"There is no account {owner!r}.")
    return int(found)


def _usernames(connection: Connection) -> dict[int, str]:
    rows = connection.execute(select(accounts.c.id, accounts.c.username))
    return {row.id: row.username for row in rows}


def _facts(key: ApiKey, usernames: Mapping[int, str]) -> dict[str, Any]:
    """What of a key is shown and audited: JSON-ready, money in USD, no secret."""
    facts: dict[str, Any] = {
        "id": key.id,
        "name": key.name,
        "key": key.mask,
        "tier": key.tier,
        "origin": key.origin,
        "owner": usernames.get(key.owner_id) if key.owner_id else None,
        "limits": shown(key.overrides),
        "created_at": key.created_at.isoformat(),
        "expires_at": key.expires_at and key.expires_at.isoformat(),
        "revoked_at": key.revoked_at and key.revoked_at.isoformat(),
    }
    if key.increase_nano and key.increase_until:
        until = key.increase_until.isoformat()
        facts["budget_increase"] = {"usd": money.to_usd(key.increase_nano), "until": until}
    return facts


def _invalid(field: str, message: str) -> ValidationError:
    return ValidationError(f"The request is not valid: {field}.", details={field: [message]})
