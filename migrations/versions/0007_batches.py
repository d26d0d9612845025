"""Files, batches with their lines, and calls that are billed to a batch."""

import sqlalchemy as sa
from alembic import op

revision = "0007_batches"
down_revision = "0006_ended_sessions"


def upgrade() -> None:
    # In the order in which workers lock these tables.
    op.add_column("ledger", sa.Column("batch_id", sa.String(40)))
    op.add_column("ledger", sa.Column("batch_line", sa.Integer))
    # SQLite does not limit the length of a text.
    if op.get_bind().dialect.name == "postgresql":
        op.alter_column("budgets", "period", type_=sa.String(40))
    op.add_column("workers", sa.Column("batch_worker_seen_at", sa.Float))
    op.create_table(
        "files",
        sa.Column("id", sa.String(40), primary_key=True),
        sa.Column("key_id", sa.Integer, nullable=False),
        sa.Column("purpose", sa.String(32), nullable=False),
        sa.Column("filename", sa.String(255), nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("state", sa.String(10), nullable=False),
        sa.Column("worker_id", sa.Integer),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("expires_at", sa.Float, nullable=False),
    )
    op.create_index("ix_files_key_id", "files", ["key_id", "created_at", "id"])
    op.create_index("ix_files_expires_at", "files", ["expires_at"])
    op.create_table(
        "file_chunks",
        sa.Column("file_id", sa.String(40), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("data", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "batches",
        sa.Column("id", sa.String(40), primary_key=True),
        sa.Column("kind", sa.String(8), nullable=False),
        sa.Column("key_id", sa.Integer, nullable=False),
        sa.Column("endpoint", sa.String(64), nullable=False),
        sa.Column("state", sa.String(12), nullable=False),
        sa.Column("completion_window", sa.String(8), nullable=False),
        sa.Column("input_file_id", sa.String(40)),
        sa.Column("output_file_id", sa.String(40)),
        sa.Column("error_file_id", sa.String(40)),
        sa.Column("metadata", sa.Text),
        sa.Column("mode", sa.String(8), nullable=False),
        sa.Column("mode_reason", sa.String(300)),
        sa.Column("cap_nano", sa.BigInteger),
        sa.Column("on_lost", sa.String(8), nullable=False),
        sa.Column("output_expires_after", sa.Integer),
        sa.Column("total", sa.Integer, nullable=False),
        sa.Column("succeeded", sa.Integer, nullable=False),
        sa.Column("failed", sa.Integer, nullable=False),
        sa.Column("errors", sa.Text),
        sa.Column("stopped_by", sa.Text),
        sa.Column("failures", sa.Text),
        sa.Column("worker_id", sa.Integer),
        sa.Column("request_id", sa.String(128), nullable=False),
        sa.Column("callback_url", sa.Text),
        sa.Column("callback_attempts", sa.Integer, nullable=False),
        sa.Column("callback_due_at", sa.Float),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("expires_at", sa.Float, nullable=False),
        sa.Column("in_progress_at", sa.Float),
        sa.Column("finalizing_at", sa.Float),
        sa.Column("completed_at", sa.Float),
        sa.Column("failed_at", sa.Float),
        sa.Column("expired_at", sa.Float),
        sa.Column("cancelling_at", sa.Float),
        sa.Column("cancelled_at", sa.Float),
    )
    op.create_index("ix_batches_key_id", "batches", ["key_id", "created_at", "id"])
    op.create_index("ix_batches_state", "batches", ["state", "created_at"])
    op.create_index(
        "ix_batches_callback_due_at",
        "batches",
        ["callback_due_at"],
        postgresql_where=sa.text("callback_due_at IS NOT NULL"),
        sqlite_where=sa.text("callback_due_at IS NOT NULL"),
    )
    op.create_table(
        "batch_lines",
        sa.Column("batch_id", sa.String(40), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("custom_id", sa.String(512), nullable=False),
        sa.Column("state", sa.String(10), nullable=False),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("length", sa.Integer, nullable=False),
        sa.Column("request", sa.LargeBinary),
        sa.Column("worker_id", sa.Integer),
        sa.Column("tries", sa.Integer, nullable=False),
        sa.Column("lost", sa.Integer, nullable=False),
        sa.Column("not_before", sa.Float, nullable=False),
        sa.Column("error", sa.String(64)),
        sa.Column("result", sa.LargeBinary),
        sa.UniqueConstraint("batch_id", "custom_id"),
    )
    op.create_index("ix_batch_lines_state", "batch_lines", ["batch_id", "state", "number"])
    op.create_index(
        "ix_batch_lines_worker_id",
        "batch_lines",
        ["worker_id"],
        postgresql_where=sa.text("worker_id IS NOT NULL"),
        sqlite_where=sa.text("worker_id IS NOT NULL"),
    )
    op.create_table(
        "batch_totals",
        sa.Column("name", sa.String(20), primary_key=True),
        sa.Column("value", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "native_batches",
        sa.Column("batch_id", sa.String(40), primary_key=True),
        sa.Column("part", sa.Integer, primary_key=True),
        sa.Column("provider", sa.String(32), nullable=False),
        sa.Column("model", sa.String(256), nullable=False),
        sa.Column("token", sa.String(64), nullable=False),
        sa.Column("state", sa.String(12), nullable=False),
        sa.Column("provider_file_id", sa.String(256)),
        sa.Column("provider_batch_id", sa.String(256)),
        sa.Column("first_line", sa.Integer, nullable=False),
        sa.Column("last_line", sa.Integer, nullable=False),
        sa.Column("first_call", sa.BigInteger),
        sa.Column("worker_id", sa.Integer),
        sa.Column("due_at", sa.Float, nullable=False),
        sa.Column("cancelled_at", sa.Float),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("collected_at", sa.Float),
    )
