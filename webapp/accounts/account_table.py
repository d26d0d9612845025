"""The table of accounts, which accounts and the keys that they own are both looked up with."""

from __future__ import annotations

from sqlalchemy import Column, DateTime, Integer, String, Table

from webapp.storage.database import metadata

accounts = Table(
    "accounts",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("username", String(100), nullable=False, unique=True),
    Column("password_hash", String(255), nullable=False),
    Column("role", String(16), nullable=False),
    Column("key_id", Integer, nullable=False),
    # Part of every token. Tokens of an older generation are no longer valid.
    Column("generation", Integer, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("disabled_at", DateTime(timezone=True)),
    # By the sign-in page or POST /token.
    Column("last_sign_in_at", DateTime(timezone=True)),
)
