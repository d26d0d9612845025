"""Sessions of agents with limits, and calls that are billed to a session."""

import sqlalchemy as sa
from alembic import op

revision = "0009_sessions"
down_revision = "0008_responses"


def upgrade() -> None:
    op.add_column("ledger", sa.Column("session_id", sa.String(40)))
    op.create_table(
        "agent_sessions",
        sa.Column("key_id", sa.Integer, primary_key=True),
        sa.Column("id", sa.String(40), primary_key=True),
        sa.Column("label", sa.String(40), nullable=False),
        sa.Column("requests", sa.BigInteger, nullable=False),
        sa.Column("last_at", sa.Float, nullable=False),
    )
    op.create_index("ix_agent_sessions_last_at", "agent_sessions", ["last_at"])
