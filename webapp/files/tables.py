"""The table of files, and of other tables what files are looked up in."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Float, Integer, String, Table, column, table

from webapp.storage.database import metadata

# Times are Unix seconds, by the clocks of the processes that wrote them.
files = Table(
    "files",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("key_id", Integer, nullable=False),
    Column("purpose", String(32), nullable=False),
    Column("filename", String(255), nullable=False),
    # While it is uploaded: as many as are counted against the key's quota by now.
    Column("bytes", BigInteger, nullable=False),
    # uploading, ready, deleted
    Column("state", String(10), nullable=False),
    # The worker that writes its bytes, or that removes them.
    Column("worker_id", Integer),
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float, nullable=False),
)

# Defined in metering and in batches, which are none of this layer's business.
workers = table("workers", column("id", Integer))
batches = table("batches", column("input_file_id", String), column("state", String))

UPLOADING, READY, DELETED = "uploading", "ready", "deleted"
# Of a batch that may still read its input.
ACTIVE_BATCH = ("validating", "in_progress", "finalizing", "cancelling")
