"""Accounts, the secrets of keys, the audit log; the ledger, budgets, usage and alerts."""

import sqlalchemy as sa
from alembic import op

revision = "0003_accounts_and_money"
down_revision = "0002_idempotency_keys"

# Only SQLite's Integer primary keys count up by themselves.
BigId = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.create_table(
        "key_secrets",
        sa.Column("digest", sa.String(64), primary_key=True),
        sa.Column("key_id", sa.Integer, nullable=False, index=True),
        sa.Column("mask", sa.String(16), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True)),
    )
    op.execute(
        "INSERT INTO key_secrets (digest, key_id, mask, created_at) "
        "SELECT digest, id, mask, created_at FROM api_keys"
    )
    naming = {"uq": "%(table_name)s_%(column_0_name)s_key"}
    with op.batch_alter_table("api_keys", naming_convention=naming) as table:
        table.drop_constraint("api_keys_digest_key", type_="unique")
        table.drop_column("digest")
        table.add_column(sa.Column("owner_id", sa.Integer))
        table.add_column(sa.Column("overrides", sa.Text, nullable=False, server_default="{}"))
        table.add_column(sa.Column("expires_at", sa.DateTime(timezone=True)))
        table.add_column(sa.Column("increase_nano", sa.BigInteger))
        table.add_column(sa.Column("increase_until", sa.DateTime(timezone=True)))
        table.create_index("ix_api_keys_owner_id", ["owner_id"])
    op.create_table(
        "accounts",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("username", sa.String(100), nullable=False, unique=True),
        sa.Column("password_hash", sa.String(255), nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("key_id", sa.Integer, nullable=False),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("disabled_at", sa.DateTime(timezone=True)),
    )
    op.create_table(
        "audit",
        sa.Column("id", BigId, primary_key=True),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False, index=True),
        sa.Column("actor", sa.String(100), nullable=False),
        sa.Column("address", sa.String(64)),
        sa.Column("action", sa.String(50), nullable=False),
        sa.Column("target", sa.String(100), nullable=False, index=True),
        sa.Column("before", sa.Text),
        sa.Column("after", sa.Text),
    )
    op.create_table(
        "workers",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("beat", sa.BigInteger, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "ledger",
        sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("worker_id", sa.Integer, nullable=False),
        sa.Column("key_id", sa.Integer, nullable=False),
        sa.Column("request_id", sa.String(128), nullable=False, index=True),
        sa.Column("endpoint", sa.String(64), nullable=False),
        sa.Column("route", sa.String(240), nullable=False),
        sa.Column("provider", sa.String(32), nullable=False),
        sa.Column("model", sa.String(200), nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("state", sa.String(10), nullable=False),
        sa.Column("error", sa.String(40)),
        sa.Column("day", sa.Date, nullable=False),
        sa.Column("reserved_at", sa.Float, nullable=False, index=True),
        sa.Column("settled_at", sa.Float),
        sa.Column("ceiling_nano", sa.BigInteger),
        sa.Column("ceiling_input_tokens", sa.BigInteger, nullable=False),
        sa.Column("ceiling_output_tokens", sa.BigInteger, nullable=False),
        sa.Column("cost_nano", sa.BigInteger),
        sa.Column("input_tokens", sa.BigInteger, nullable=False),
        sa.Column("cached_input_tokens", sa.BigInteger, nullable=False),
        sa.Column("output_tokens", sa.BigInteger, nullable=False),
        sa.Column("estimated", sa.Boolean, nullable=False),
    )
    op.create_index("ix_ledger_key_id", "ledger", ["key_id", "reserved_at"])
    op.create_index(
        "ix_ledger_reserved", "ledger", ["worker_id"],
        sqlite_where=sa.text("state = 'reserved'"),
        postgresql_where=sa.text("state = 'reserved'"),
    )  # fmt: skip
    op.create_table(
        "usage",
        sa.Column("day", sa.Date, primary_key=True),
        sa.Column("key_id", sa.Integer, primary_key=True),
        sa.Column("provider", sa.String(32), primary_key=True),
        sa.Column("model", sa.String(200), primary_key=True),
        sa.Column("endpoint", sa.String(64), primary_key=True),
        sa.Column("calls", sa.BigInteger, nullable=False),
        sa.Column("failed", sa.BigInteger, nullable=False),
        sa.Column("estimated", sa.BigInteger, nullable=False),
        sa.Column("unpriced", sa.BigInteger, nullable=False),
        sa.Column("input_tokens", sa.BigInteger, nullable=False),
        sa.Column("cached_input_tokens", sa.BigInteger, nullable=False),
        sa.Column("output_tokens", sa.BigInteger, nullable=False),
        sa.Column("cost_nano", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "budgets",
        sa.Column("key_id", sa.Integer, primary_key=True),
        sa.Column("period", sa.String(5), primary_key=True),
        sa.Column("start", sa.Date, primary_key=True),
        sa.Column("spent_nano", sa.BigInteger, nullable=False),
        sa.Column("reserved_nano", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "alerts",
        sa.Column("id", sa.String(36), primary_key=True),
        sa.Column("key_id", sa.Integer, nullable=False),
        sa.Column("period", sa.String(5), nullable=False),
        sa.Column("start", sa.Date, nullable=False),
        sa.Column("percent", sa.Integer, nullable=False),
        sa.Column("limit_nano", sa.BigInteger, nullable=False),
        sa.Column("spent_nano", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("next_attempt_at", sa.Float),
        sa.Column("delivered_at", sa.Float),
        sa.UniqueConstraint("key_id", "period", "start", "percent"),
    )
    for name in ("saved_nano", "saved_tokens"):
        column = sa.Column(name, sa.BigInteger, nullable=False, server_default="0")
        op.add_column("traffic", column)
