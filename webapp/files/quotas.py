"""How many bytes the files of a key may have, and which of them count."""

from __future__ import annotations

import time

from sqlalchemy import ColumnElement, Connection, and_, func, or_, select

from webapp.errors import StorageQuotaExceeded
from webapp.files.tables import ACTIVE_BATCH, DELETED, batches, files

# The first of the two numbers of an advisory lock; the other one is the key's.
QUOTA_LOCK = 1_463_898_694


def lock_quotas(connection: Connection, key_id: int) -> None:
    """Let what counts against a key's quotas be counted one after the other, until the end of the
    transaction. SQLite has one writer anyway."""
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(QUOTA_LOCK, key_id)))


def quota_exceeded(quota: int, used: int) -> StorageQuotaExceeded:
    return StorageQuotaExceeded(
        f"The files of this key may have {quota:,} bytes in all, and {used:,} are taken. Delete "
        "files, or wait until some expire.",
        details={"limit": "storage_bytes", "size": quota, "used": used},
    )


def usage_of(connection: Connection, key_id: int, *where: ColumnElement[bool]) -> int:
    counted = or_(and_(files.c.state != DELETED, files.c.expires_at > time.time()), is_read())
    total = select(func.sum(files.c.bytes)).where(files.c.key_id == key_id, counted, *where)
    return int(connection.execute(total).scalar() or 0)


def is_read() -> ColumnElement[bool]:
    """Whether a batch that has not ended reads the file."""
    read = select(batches.c.input_file_id).where(
        batches.c.state.in_(ACTIVE_BATCH), batches.c.input_file_id.is_not(None)
    )
    return files.c.id.in_(read)
