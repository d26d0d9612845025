"""API keys: how they look, where they are kept, who may use them."""

from __future__ import annotations

import hashlib
import secrets
import string
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import Column, Connection, DateTime, Integer, String, Table, func, select
from sqlalchemy.exc import IntegrityError

from webapp.observability.masking import mask
from webapp.settings import ConfiguredKey
from webapp.storage.database import Database, metadata

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(100), nullable=False),
    Column("tier", String(32), nullable=False),
    Column("digest", String(64), nullable=False, unique=True),
    Column("mask", String(16), nullable=False),
    # "settings" for those of API_KEYS, "operator" for those made by hand.
    Column("origin", String(16), nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("revoked_at", DateTime(timezone=True)),
    Column("revoked_by", String(16)),
)

PUBLIC_ALPHABET = string.ascii_letters + string.digits


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as it is kept; the secret itself is nowhere."""

    id: int
    name: str
    tier: str
    mask: str
    origin: str
    created_at: datetime
    revoked_at: datetime | None


def digest(secret: str) -> str:
    """SHA-256 of the whole key. Keys carry 256 random bits, so a slow hash would add nothing."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def generate() -> str:
    """A new key: `weir_<12 public>_<43 secret>`."""
    public = "".join(secrets.choice(PUBLIC_ALPHABET) for _ in range(12))
    return f"weir_{public}_{secrets.token_urlsafe(32)}"


class KeyStore:
    """The keys in the database. Every method raises StoreUnavailable when that is away."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, key_digest: str) -> ApiKey | None:
        """The unrevoked key with this digest."""
        query = select(*_SHOWN).where(
            api_keys.c.digest == key_digest, api_keys.c.revoked_at.is_(None)
        )
        row = self._database.read(lambda connection: connection.execute(query).first())
        return ApiKey(*row) if row else None

    def create(self, name: str, tier: str) -> tuple[ApiKey, str]:
        """A new key and its secret, which is not kept and cannot be shown again."""
        secret = generate()
        key = self._database.write(
            lambda connection: _insert(connection, name, tier, secret, "operator")
        )
        return key, secret

    def all(self) -> list[ApiKey]:
        query = select(*_SHOWN).order_by(api_keys.c.id)
        rows = self._database.read(lambda connection: connection.execute(query).all())
        return [ApiKey(*row) for row in rows]

    def revoke(self, key_id: int) -> bool:
        """Revoke a key; False if there is none with this id that still works."""
        update = (
            api_keys.update()
            .where(api_keys.c.id == key_id, api_keys.c.revoked_at.is_(None))
            .values(revoked_at=datetime.now(UTC), revoked_by="operator")
        )
        return bool(self._database.write(lambda connection: connection.execute(update).rowcount))

    def count(self) -> int:
        """How many keys work."""
        query = select(func.count()).where(api_keys.c.revoked_at.is_(None))
        return int(self._database.read(lambda connection: connection.execute(query).scalar_one()))

    def take_over(self, configured: Iterable[ConfiguredKey]) -> None:
        """Make the keys of API_KEYS, by name, those that work.

        One that is no longer there is revoked, and works again when it comes back. What an
        operator revoked stays revoked until the secret changes.
        """
        wanted = list(configured)

        def work(connection: Connection) -> None:
            for key in wanted:
                _take_over_one(connection, key)
            connection.execute(
                api_keys.update()
                .where(
                    api_keys.c.origin == "settings",
                    api_keys.c.revoked_at.is_(None),
                    api_keys.c.digest.not_in([digest(key.secret) for key in wanted]),
                )
                .values(revoked_at=datetime.now(UTC), revoked_by="settings")
            )

        try:
            self._database.write(work)
        except IntegrityError:
            # Another process inserted the same keys first; seen now, they are only updated.
            self._database.write(work)


_SHOWN = [
    api_keys.c[name]
    for name in ("id", "name", "tier", "mask", "origin", "created_at", "revoked_at")
]


def _insert(connection: Connection, name: str, tier: str, secret: str, origin: str) -> ApiKey:
    shown, now = mask(secret), datetime.now(UTC)
    result = connection.execute(
        api_keys.insert().values(
            name=name,
            tier=tier,
            digest=digest(secret),
            mask=shown,
            origin=origin,
            created_at=now,
        )
    )
    assert result.inserted_primary_key is not None
    return ApiKey(result.inserted_primary_key[0], name, tier, shown, origin, now, None)


def _take_over_one(connection: Connection, key: ConfiguredKey) -> None:
    where = api_keys.c.digest == digest(key.secret)
    row = connection.execute(select(api_keys.c.revoked_by).where(where)).first()
    if row is None:
        _insert(connection, key.name, key.tier, key.secret, "settings")
        return
    changes: dict[str, object] = {"name": key.name, "tier": key.tier}
    if row.revoked_by == "settings":
        changes |= {"revoked_at": None, "revoked_by": None}
    connection.execute(api_keys.update().where(where).values(**changes))
