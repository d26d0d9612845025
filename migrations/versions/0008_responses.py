"""Responses that providers keep: which provider, and for which key."""

import sqlalchemy as sa
from alembic import op

revision = "0008_responses"
down_revision = "0007_batches"


def upgrade() -> None:
    op.create_table(
        "responses",
        sa.Column("id", sa.String(256), primary_key=True),
        sa.Column("key_id", sa.Integer, primary_key=True),
        sa.Column("provider", sa.String(32), nullable=False),
        sa.Column("model", sa.String(256), nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("expires_at", sa.Float, nullable=False),
    )
    op.create_index("ix_responses_expires_at", "responses", ["expires_at"])
