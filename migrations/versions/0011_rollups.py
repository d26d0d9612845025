"""Totals of all keys, of steps that are over."""

import sqlalchemy as sa
from alembic import op

revision = "0011_rollups"
down_revision = "0010_dashboard_figures"

COUNTERS = (
    "requests", "hits", "misses", "errors", "saved_nano",
    "refused_rate", "refused_tokens", "refused_budget", "refused_parallel", "tokens", "cost_nano",
    "calls", "failed_calls", "input_tokens", "cached_input_tokens", "output_tokens",
)  # fmt: skip


def upgrade() -> None:
    op.create_table(
        "rollups",
        sa.Column("span", sa.Integer, primary_key=True),
        sa.Column("start", sa.BigInteger, primary_key=True),
        sa.Column("provider", sa.String(32), primary_key=True),
        sa.Column("model", sa.String(256), primary_key=True),
        *(sa.Column(name, sa.BigInteger, nullable=False, server_default="0") for name in COUNTERS),
    )
