"""Sessions that were signed out before their end."""

import sqlalchemy as sa
from alembic import op

revision = "0006_ended_sessions"
down_revision = "0005_providers"


def upgrade() -> None:
    op.create_table(
        "ended_sessions",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("ends_at", sa.BigInteger, nullable=False),
    )
