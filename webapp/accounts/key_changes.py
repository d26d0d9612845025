"""Creates, changes, rotates and revokes keys. Every change is audited."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from sqlalchemy import Connection, func, select, update

from webapp import money
from webapp.accounts import audit
from webapp.accounts.audit import Actor
from webapp.accounts.key_listing import KeyDict, existing_key, key_to_dict, owner_id_of
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
)
from webapp.allowance import parse_overrides
from webapp.errors import Conflict, ValidationError
from webapp.observability.masking import mask
from webapp.storage.database import Database

DEFAULT_GRACE = 86_400
MAX_GRACE = 30 * 86_400
SECRET = re.compile(r"[!-~]{16,200}")
SHA256 = re.compile(r"[0-9a-f]{64}")
MASK_OF_UNKNOWN = "***"

# A number for the advisory lock that no migration and no other program uses.
LOCK_ID = 0x6B657973

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key to be created.

    For clients that already have a secret, `secret` is that secret, or `sha256` its digest in hex.
    Without either, a secret is generated. `line` is its line in an imported file, for errors.
    """

    name: str
    tier: str
    owner: str | None = None
    limits: Mapping[str, Any] | None = None
    expires_at: datetime | None = None
    secret: str | None = None
    sha256: str | None = None
    line: int | None = None


class KeyChanges:
    """Changes keys by id, on behalf of an Actor.

    Methods may raise StoreUnavailable, NotFound, Conflict, or ValidationError with the field.
    """

    def __init__(self, database: Database, tiers: Mapping[str, object]) -> None:
        self._database = database
        self._tiers = tiers

    def create(self, actor: Actor, new: NewKey) -> tuple[KeyDict, str | None]:
        """The new key, and its secret, which is not stored and cannot be shown again.

        The secret is None if the client already had one.
        """
        [created] = self.create_all(actor, [new])
        return created

    def create_all(self, actor: Actor, keys: Iterable[NewKey]) -> list[tuple[KeyDict, str | None]]:
        """Like create(), for all of them or none. Errors name the line of the key if it has one."""
        wanted = list(keys)

        def work(connection: Connection) -> list[tuple[KeyDict, str | None]]:
            created = []
            for new in wanted:
                with _errors_name(new.line):
                    created.append(self._create(connection, actor, new))
            return created

        return self._write(work)

    def change(self, actor: Actor, key_id: int, changes: Mapping[str, Any]) -> KeyDict:
        """Change `name`, `tier`, `owner` (a username or None), `limits` or `expires_at`."""

        def values(connection: Connection, key: ApiKey) -> dict[str, Any]:
            columns = {name: changes[name] for name in ("name", "tier") if name in changes}
            if key.origin == "settings" and columns:
                raise Conflict("Name and tier of this key are set in API_KEYS. Change them there.")
            self._check(**columns)
            if "name" in changes and changes["name"] != key.name:
                _check_free(connection, changes["name"])
            if "expires_at" in changes:
                columns["expires_at"] = _future_utc("expires_at", changes["expires_at"])
            if "owner" in changes:
                columns["owner_id"] = owner_id_of(connection, changes["owner"])
            if "limits" in changes:
                columns["overrides"] = json.dumps(_merged(key.overrides, changes["limits"]))
            return columns

        return self._change(actor, "key.change", key_id, values)

    def increase_budget(
        self, actor: Actor, key_id: int, usd: Any, until: datetime | None = None
    ) -> KeyDict:
        """Raise each budget of the key by an amount, until a time. 0 ends the increase."""
        try:
            nano = money.to_nano(usd)
        except ValueError as error:
            raise _invalid("usd", str(error)) from None
        if nano and until is None:
            raise _invalid("until", "Required unless usd is 0.")
        ends = _future_utc("until", until) if nano else None
        values = {"increase_nano": nano or None, "increase_until": ends}
        return self._change(actor, "key.increase_budget", key_id, lambda *_: values)

    def rotate(self, actor: Actor, key_id: int, grace: int = DEFAULT_GRACE) -> tuple[KeyDict, str]:
        """Issue a new secret. The last one stays valid for `grace` seconds; older ones end now."""
        if not 0 <= grace <= MAX_GRACE:
            raise _invalid("grace", f"Must be 0 to {MAX_GRACE} seconds.")
        secret = generate()

        def values(connection: Connection, key: ApiKey) -> dict[str, Any]:
            if key.origin == "settings":
                raise Conflict("The secret of this key is set in API_KEYS. Change it there.")
            of_key = key_secrets.c.key_id == key_id
            older = key_secrets.c.expires_at.is_not(None) if grace else of_key
            connection.execute(key_secrets.delete().where(of_key, older))
            ends = now() + timedelta(seconds=grace)
            connection.execute(update(key_secrets).where(of_key).values(expires_at=ends))
            insert_secret(connection, key_id, digest(secret), mask(secret))
            return {"mask": mask(secret)}

        return self._change(actor, "key.rotate", key_id, values), secret

    def revoke(self, actor: Actor, key_id: int) -> KeyDict:
        """Revoke a key for good. It stops working on every worker within 5 s."""
        values = {"revoked_at": now(), "revoked_by": "operator"}
        return self._change(actor, "key.revoke", key_id, lambda *_: values)

    def _create(
        self, connection: Connection, actor: Actor, new: NewKey
    ) -> tuple[KeyDict, str | None]:
        self._check(new.name, new.tier)
        _check_free(connection, new.name)
        generated = generate() if new.secret is None and new.sha256 is None else None
        key_digest, shown_as = _digest_and_mask(generated, new)
        taken = select(key_secrets.c.key_id).where(key_secrets.c.digest == key_digest)
        if connection.execute(taken).first():
            raise Conflict("A key with this secret already exists.")
        row = key_row(new.name, new.tier, shown_as, "operator") | {
            "owner_id": owner_id_of(connection, new.owner),
            "overrides": json.dumps(_merged({}, new.limits or {})),
            "expires_at": _future_utc("expires_at", new.expires_at),
        }
        inserted = connection.execute(api_keys.insert().values(row).returning(api_keys))
        key = key_of(dict(inserted.mappings().one()))
        insert_secret(connection, key.id, key_digest, shown_as)
        after = key_to_dict(connection, key)
        audit.record(connection, actor, "key.create", f"key-{key.id}", None, after)
        return after, generated

    def _change(self, actor: Actor, action: str, key_id: int, values: Any) -> KeyDict:
        def work(connection: Connection) -> KeyDict:
            key = existing_key(connection, key_id)
            if key.revoked_at is not None:
                raise Conflict("This key has been revoked.")
            before = key_to_dict(connection, key)
            changed = values(connection, key)
            if changed:
                connection.execute(update(api_keys).where(api_keys.c.id == key_id).values(changed))
            after = key_to_dict(connection, existing_key(connection, key_id))
            audit.record(connection, actor, action, f"key-{key_id}", before, after)
            return after

        return self._write(work)

    def _write(self, work: Callable[[Connection], Result]) -> Result:
        def locked(connection: Connection) -> Result:
            lock_key_changes(connection)
            return work(connection)

        return self._database.write(locked)

    def _check(self, name: str | None = None, tier: str | None = None) -> None:
        if name is not None:
            check_name(name)
        if tier is not None and tier not in self._tiers:
            raise _invalid("tier", f"Must be one of {', '.join(self._tiers)}, not {tier!r}.")


def check_name(name: str) -> None:
    """Raises ValidationError if no key may have this name."""
    if not name.strip():
        raise _invalid("name", "Must not be blank.")
    if not (len(name) <= 100 and name.isprintable()):
        raise _invalid("name", "Must be 1 to 100 printable characters.")


def lock_key_changes(connection: Connection) -> None:
    """Let one transaction at a time change keys, as names and secrets are checked, then written.

    Changes are rare, and reads do not wait for this lock. SQLite has a single writer anyway.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(LOCK_ID)))


def _digest_and_mask(generated: str | None, new: NewKey) -> tuple[str, str]:
    """The digest and the mask of a new key's secret."""
    if new.sha256 is not None:
        if new.secret is not None or not SHA256.fullmatch(new.sha256):
            raise _invalid(
                "sha256", "Must be 64 lowercase hexadecimal digits, and not combined with key."
            )
        return new.sha256, MASK_OF_UNKNOWN
    # A credential with two dots is read as a token (JWT).
    if new.secret is not None and (not SECRET.fullmatch(new.secret) or new.secret.count(".") == 2):
        raise _invalid("key", "Must be 16 to 200 visible ASCII characters, without two dots.")
    secret = generated or new.secret or ""
    return digest(secret), mask(secret)


def _check_free(connection: Connection, name: str) -> None:
    """Raise Conflict if a key that is not revoked has this name."""
    unrevoked = (api_keys.c.name == name, api_keys.c.revoked_at.is_(None))
    of_keys = api_keys.c.origin != "account"
    if connection.execute(select(api_keys.c.id).where(*unrevoked, of_keys)).first():
        message = f"A key {name!r} that is not revoked already exists."
        raise Conflict(message, details={"name": [message]})


def _merged(overrides: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    try:
        merged = {**overrides, **parse_overrides(changes)}
    except ValueError as error:
        raise _invalid("limits", str(error)) from None
    return {name: value for name, value in merged.items() if value is not None}


def _future_utc(field: str, moment: datetime | None) -> datetime | None:
    """Check that a time is in the future, and convert it to UTC: SQLite stores no zone."""
    if moment is None:
        return None
    if moment <= now():
        raise _invalid(field, "Must be in the future.")
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise _invalid(field, "Must be before the year 10000.") from None


@contextmanager
def _errors_name(line: int | None) -> Iterator[None]:
    try:
        yield
    except (Conflict, ValidationError) as error:
        if line is None:
            raise
        fields = (error.details or {}).items()
        details = {f"line {line}, {field}": messages for field, messages in fields}
        raise type(error)(f"Line {line}: {error.message}", details=details or None) from None


def _invalid(field: str, message: str) -> ValidationError:
    return ValidationError(f"The request is not valid: {field}.", details={field: [message]})
