"""Counters by model, latencies by model, and what the pages say of requests and accounts."""

import sqlalchemy as sa
from alembic import op

revision = "0010_dashboard_figures"
down_revision = "0009_sessions"

COUNTERS = (
    "requests", "hits", "misses", "errors", "saved_nano",
    "refused_rate", "refused_tokens", "refused_budget", "refused_parallel",
    "calls", "failed_calls", "input_tokens", "cached_input_tokens", "output_tokens", "cost_nano",
)  # fmt: skip


def upgrade() -> None:
    op.create_table(
        "target_activity",
        sa.Column("span", sa.Integer, primary_key=True),
        sa.Column("start", sa.BigInteger, primary_key=True),
        sa.Column("key_id", sa.Integer, primary_key=True),
        sa.Column("endpoint", sa.String(64), primary_key=True),
        sa.Column("provider", sa.String(32), primary_key=True),
        sa.Column("model", sa.String(256), primary_key=True),
        *(sa.Column(name, sa.BigInteger, nullable=False, server_default="0") for name in COUNTERS),
    )
    op.create_table(
        "target_latency",
        sa.Column("span", sa.Integer, primary_key=True),
        sa.Column("start", sa.BigInteger, primary_key=True),
        sa.Column("provider", sa.String(32), primary_key=True),
        sa.Column("model", sa.String(256), primary_key=True),
        sa.Column("total", sa.LargeBinary, nullable=False),
        sa.Column("first_token", sa.LargeBinary, nullable=False),
    )
    op.add_column("requests", sa.Column("first_token_milliseconds", sa.Float))
    op.add_column("requests", sa.Column("client", sa.String(200)))
    op.add_column("requests", sa.Column("refused_by", sa.String(30)))
    op.add_column("accounts", sa.Column("last_sign_in_at", sa.DateTime(timezone=True)))
