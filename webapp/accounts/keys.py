"""API keys: their format, their tables, and how they are looked up.

A key has its name, tier, overrides and spending for life. Its secrets can be replaced; during the
grace period of a rotation, two of them work.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import string
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    DateTime,
    Integer,
    String,
    Table,
    Text,
    exists,
    func,
    or_,
    select,
)

from webapp.accounts.account_table import accounts
from webapp.storage.database import Database, metadata

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(100), nullable=False),
    Column("tier", String(32), nullable=False),
    # The mask of the newest secret.
    Column("mask", String(16), nullable=False),
    # "settings" for keys of API_KEYS, "operator" for keys created by an operator, "account" for the
    # key without a secret that an account's tokens act as.
    Column("origin", String(16), nullable=False),
    Column("owner_id", Integer),
    Column("overrides", Text, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("expires_at", DateTime(timezone=True)),
    Column("revoked_at", DateTime(timezone=True)),
    Column("revoked_by", String(16)),
    # A temporary increase of each budget of the key.
    Column("increase_nano", BigInteger),
    Column("increase_until", DateTime(timezone=True)),
)
key_secrets = Table(
    "key_secrets",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("key_id", Integer, nullable=False),
    Column("mask", String(16), nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False),
    # Set on the old secret of a rotation: the end of its grace period.
    Column("expires_at", DateTime(timezone=True)),
)

LARGEST_ID = 2**31 - 1
PUBLIC_ALPHABET = string.ascii_letters + string.digits


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as stored, without its secrets. `overrides` are described in webapp.allowance."""

    id: int
    name: str
    tier: str
    mask: str
    origin: str
    owner_id: int | None
    overrides: dict[str, Any]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    increase_nano: int | None
    increase_until: datetime | None


def digest(secret: str) -> str:
    """SHA-256 of the whole key. Keys have 256 random bits, so a slow hash would add nothing."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def generate() -> str:
    """A new key: `weir_<12 public>_<43 secret>`."""
    public = "".join(secrets.choice(PUBLIC_ALPHABET) for _ in range(12))
    return f"weir_{public}_{secrets.token_urlsafe(32)}"


class KeyStore:
    """The keys in the database. Every method may raise StoreUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, key_digest: str) -> tuple[ApiKey, datetime | None] | None:
        """The key with a secret of this digest, if both are valid now, and until when they are."""
        query = (
            select(*_KEY_COLUMNS, key_secrets.c.expires_at.label("secret_expires_at"))
            .join(key_secrets, key_secrets.c.key_id == api_keys.c.id)
            .where(
                key_secrets.c.digest == key_digest,
                or_(key_secrets.c.expires_at.is_(None), key_secrets.c.expires_at > now()),
                *working(),
            )
        )
        row = self._database.read(lambda connection: connection.execute(query).first())
        if row is None:
            return None
        fields = dict(row._mapping)
        ends = zoned(fields.pop("secret_expires_at"))
        key = key_of(fields)
        return key, min(filter(None, (ends, key.expires_at)), default=None)

    def get_all(self, key_ids: Collection[int]) -> list[ApiKey]:
        """The keys with these ids that are valid now."""
        query = select(*_KEY_COLUMNS).where(api_keys.c.id.in_(key_ids), *working())
        rows = self._database.read(lambda connection: connection.execute(query).mappings().all())
        return [key_of(row) for row in rows]

    def count(self) -> int:
        """How many keys are valid now."""
        query = select(func.count()).where(*working(), api_keys.c.origin != "account")
        return int(self._database.read(lambda connection: connection.execute(query).scalar_one()))


def now() -> datetime:
    return datetime.now(UTC)


_KEY_COLUMNS = [api_keys.c[name] for name in ApiKey.__slots__]


def key_of(row: Mapping[Any, Any]) -> ApiKey:
    """The key from a row of the table."""
    fields = {name: zoned(row[name]) for name in ApiKey.__slots__}
    return ApiKey(**fields | {"overrides": json.loads(fields["overrides"])})


def zoned(value: Any) -> Any:
    """A time from the database, with its zone (UTC), which SQLite does not store."""
    naive = isinstance(value, datetime) and value.tzinfo is None
    return value.replace(tzinfo=UTC) if naive else value


def working() -> list[Any]:
    """The SQL conditions of a key that is valid now."""
    return [api_keys.c.revoked_at.is_(None), unexpired(), ~owner_disabled()]


def unexpired() -> ColumnElement[bool]:
    """The SQL condition that a key has not expired."""
    return or_(api_keys.c.expires_at.is_(None), api_keys.c.expires_at > now())


def owner_disabled() -> ColumnElement[bool]:
    """The SQL condition that a key belongs to a disabled account."""
    return exists().where(accounts.c.id == api_keys.c.owner_id, accounts.c.disabled_at.is_not(None))


def key_row(name: str, tier: str, shown_as: str, origin: str) -> dict[str, Any]:
    """A new row for the table."""
    return {
        "name": name,
        "tier": tier,
        "mask": shown_as,
        "origin": origin,
        "overrides": "{}",
        "created_at": now(),
    }


def insert_secret(connection: Connection, key_id: int, key_digest: str, shown_as: str) -> None:
    """Add a secret to the key. Only its digest is stored."""
    connection.execute(
        key_secrets.insert().values(
            digest=key_digest, key_id=key_id, mask=shown_as, created_at=now()
        )
    )
