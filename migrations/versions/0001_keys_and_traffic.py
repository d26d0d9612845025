"""API keys; counters of traffic and of latency."""

import sqlalchemy as sa
from alembic import op

revision = "0001_keys_and_traffic"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "api_keys",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("tier", sa.String(32), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False, unique=True),
        sa.Column("mask", sa.String(16), nullable=False),
        sa.Column("origin", sa.String(16), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("revoked_at", sa.DateTime(timezone=True)),
        sa.Column("revoked_by", sa.String(16)),
    )
    op.create_index("ix_api_keys_name", "api_keys", ["name"])
    op.create_table(
        "traffic",
        sa.Column("day", sa.Date, primary_key=True),
        sa.Column("key_id", sa.Integer, primary_key=True),
        sa.Column("requests", sa.BigInteger, nullable=False),
        sa.Column("hits", sa.BigInteger, nullable=False),
        sa.Column("misses", sa.BigInteger, nullable=False),
        sa.Column("errors", sa.BigInteger, nullable=False),
        sa.Column("tokens", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "latency",
        sa.Column("day", sa.Date, primary_key=True),
        sa.Column("bucket", sa.Integer, primary_key=True),
        sa.Column("requests", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "service",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
    )
    op.execute("INSERT INTO service (id, since) VALUES (1, CURRENT_TIMESTAMP)")


def downgrade() -> None:
    for table in ("service", "latency", "traffic", "api_keys"):
        op.drop_table(table)
