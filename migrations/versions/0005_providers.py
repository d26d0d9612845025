"""Longer model names, what providers said, all kinds of tokens, refused requests, prices."""

import sqlalchemy as sa
from alembic import op

revision = "0005_providers"
down_revision = "0004_dashboard"

REFUSALS = ("refused_rate", "refused_tokens", "refused_budget", "refused_parallel")


def upgrade() -> None:
    # SQLite does not limit the length of a text.
    if op.get_bind().dialect.name == "postgresql":
        op.alter_column("ledger", "route", type_=sa.String(300))
        for table in ("ledger", "usage", "requests"):
            op.alter_column(table, "model", type_=sa.String(256))
    op.add_column("ledger", sa.Column("answered_model", sa.String(256)))
    op.add_column("ledger", sa.Column("service_tier", sa.String(20)))
    op.add_column("ledger", sa.Column("provider_status", sa.Integer))
    op.add_column("ledger", sa.Column("provider_message", sa.String(1000)))
    for table in ("ledger", "usage"):
        written = sa.Column("cache_write_tokens", sa.BigInteger, nullable=False, server_default="0")
        op.add_column(table, written)
    op.add_column("requests", sa.Column("asked_model", sa.String(300)))
    op.add_column("requests", sa.Column("answered_model", sa.String(256)))
    for table in ("traffic", "activity"):
        for name in REFUSALS:
            refused = sa.Column(name, sa.BigInteger, nullable=False, server_default="0")
            op.add_column(table, refused)
    op.create_table(
        "prices",
        sa.Column("provider", sa.String(32), primary_key=True),
        sa.Column("model", sa.String(256), primary_key=True),
        sa.Column("entry", sa.Text, nullable=False),
        sa.Column("source", sa.String(200), nullable=False),
        sa.Column("source_date", sa.Date, nullable=False),
        sa.Column("updated_at", sa.Float, nullable=False),
    )
