"""The request log, and short-lived counters by the minute and the half hour."""

import sqlalchemy as sa
from alembic import op

revision = "0004_dashboard"
down_revision = "0003_accounts_and_money"

BigId = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.create_table(
        "requests",
        sa.Column("id", BigId, primary_key=True),
        sa.Column("at", sa.Float, nullable=False, index=True),
        sa.Column("request_id", sa.String(128), nullable=False, index=True),
        sa.Column("key_id", sa.Integer, nullable=False),
        sa.Column("endpoint", sa.String(64), nullable=False),
        sa.Column("status", sa.Integer, nullable=False),
        sa.Column("cache", sa.String(10)),
        sa.Column("provider", sa.String(32)),
        sa.Column("model", sa.String(200)),
        sa.Column("tokens", sa.BigInteger),
        sa.Column("cost_nano", sa.BigInteger),
        sa.Column("milliseconds", sa.Float, nullable=False),
        sa.Column("error", sa.String(40)),
        sa.Column("prompt", sa.Text),
        sa.Column("answer", sa.Text),
        sa.Index("ix_requests_key_id_id", "key_id", "id"),
    )
    op.create_table(
        "activity",
        sa.Column("span", sa.Integer, primary_key=True),
        sa.Column("start", sa.BigInteger, primary_key=True),
        sa.Column("key_id", sa.Integer, primary_key=True),
        sa.Column("requests", sa.BigInteger, nullable=False),
        sa.Column("hits", sa.BigInteger, nullable=False),
        sa.Column("misses", sa.BigInteger, nullable=False),
        sa.Column("errors", sa.BigInteger, nullable=False),
        sa.Column("tokens", sa.BigInteger, nullable=False),
        sa.Column("cost_nano", sa.BigInteger, nullable=False),
        sa.Column("saved_nano", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "activity_latency",
        sa.Column("span", sa.Integer, primary_key=True),
        sa.Column("start", sa.BigInteger, primary_key=True),
        sa.Column("bucket", sa.Integer, primary_key=True),
        sa.Column("requests", sa.BigInteger, nullable=False),
    )
