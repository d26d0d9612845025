"""Files of keys: their records, their quota, and how long they are kept."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import gevent
from sqlalchemy import ColumnElement, Connection, Row, and_, or_, select, tuple_

from webapp.errors import NotFound, PayloadTooLarge, StoreUnavailable
from webapp.files.file_ids import check_id, new_id, not_found, time_of
from webapp.files.quotas import is_read, lock_quotas, quota_exceeded, usage_of
from webapp.files.tables import DELETED, READY, UPLOADING, files, workers
from webapp.storage.blobs import BlobMissing, BlobStore
from webapp.storage.database import Database

log = logging.getLogger(__name__)

RESULTS = "batch_output"  # the purpose of files that batches write
DAY = 86_400.0
MAX_FILENAME = 255  # characters
# Bytes of an upload that may be stored before they are counted.
COUNTED_EVERY = 1024 * 1024
SWEEP_INTERVAL = 60.0  # seconds
CLOSE_TIMEOUT = 2.0  # seconds
SWEPT_AT_ONCE = 50


@dataclass(frozen=True, slots=True)
class StoredFile:
    """Times are Unix seconds."""

    id: str
    key_id: int
    purpose: str
    filename: str
    bytes: int
    created_at: int
    expires_at: int


class FileStore:
    """Files belong to their key: to any other one they are not there.

    A file is first a row in state `uploading`, which belongs to the worker that writes its bytes;
    then these are written; then it is `ready`. `retention` is the days that uploads and results are
    kept; `worker_id` is this worker's in the table `workers`. Methods may raise StoreUnavailable.
    """

    def __init__(
        self,
        database: Database,
        blobs: BlobStore,
        *,
        quota: int,
        max_bytes: int,
        retention: tuple[int, int],
        worker_id: Callable[[], int],
    ) -> None:
        self._database = database
        self._blobs = blobs
        self._quota = quota
        self._max_bytes = max_bytes
        self._retention = retention
        self._worker_id = worker_id
        # Uploads of which something is left: the storage was away when they failed.
        self._failed: dict[str, _Upload] = {}
        self._sweep_at = 0.0
        self._sweeper: gevent.Greenlet | None = None

    def save(
        self,
        key_id: int,
        purpose: str,
        filename: str,
        chunks: Iterable[bytes],
        *,
        keep_seconds: float | Callable[[], float | None] | None = None,
        file_id: str | None = None,
    ) -> StoredFile:
        """Store a new file. It is kept for `keep_seconds`, but no longer than the retention says.
        A function says that when all `chunks` have come.

        `file_id` writes a file anew that may have been begun or written before. Raises
        StorageQuotaExceeded and PayloadTooLarge, never for results, and what `chunks` raises;
        nothing is left of the file then. Also StoreUnavailable, while what there was of the file is
        being removed.
        """
        now = round(time.time(), 6)
        is_result = purpose == RESULTS
        longest = self._retention[is_result] * DAY
        upload = _Upload(
            id=file_id or new_id(now),
            key_id=key_id,
            created_at=now,
            max_bytes=None if is_result else self._max_bytes,
            quota=None if is_result else self._quota,
        )
        row: dict[str, Any] = {
            "id": upload.id,
            "key_id": key_id,
            "purpose": purpose,
            "filename": filename[:MAX_FILENAME],
            "bytes": 0,
            "state": UPLOADING,
            "worker_id": self._worker_id(),
            "created_at": now,
            "expires_at": now + longest,
        }
        if not self._database.write(lambda connection: _begin(connection, upload, row)):
            raise StoreUnavailable(f"File {upload.id} is being removed. Try again.")
        try:
            if file_id:
                self._blobs.delete(file_id)
            self._blobs.write(upload.id, self._counted(upload, chunks))
            kept = keep_seconds() if callable(keep_seconds) else keep_seconds
            expires_at = now + (longest if kept is None else min(kept, longest))
            self._count(upload, {"state": READY, "worker_id": None, "expires_at": expires_at})
        except BaseException:
            self._failed[upload.id] = upload
            self._remove_failed(upload)
            raise
        return StoredFile(
            upload.id, key_id, purpose, row["filename"], upload.size, int(now), int(expires_at)
        )

    def find(self, key_id: int, file_id: str) -> StoredFile:
        """A file of this key. Raises NotFound."""
        check_id(file_id)
        found = self._read_one(files.c.id == file_id, *_listed(key_id))
        if found is None:
            raise not_found(file_id)
        return found

    def find_input(self, file_id: str) -> StoredFile:
        """As find(), for a batch that reads it: also what was deleted or has expired since."""
        found = self._read_one(files.c.id == file_id, files.c.state != UPLOADING)
        if found is None:
            raise not_found(file_id)
        return found

    def page(
        self, key_id: int, *, purpose: str | None, after: str | None, limit: int, ascending: bool
    ) -> tuple[list[StoredFile], bool]:
        """The files of this key by age, from the one that follows `after`, and whether there are
        more. `after` may have been deleted since. Raises NotFound if it is no file's id."""
        if after is not None:
            check_id(after)
        order = (files.c.created_at, files.c.id)
        where = _listed(key_id)
        if purpose is not None:
            where.append(files.c.purpose == purpose)

        def read(connection: Connection) -> list[Any]:
            if after is not None:
                own = (files.c.id == after, files.c.key_id == key_id)
                last = connection.execute(select(*order).where(*own)).first()
                position = tuple_(*order)
                bound = tuple_(*(last or (time_of(after), after)))
                where.append(position > bound if ascending else position < bound)
            ordered = order if ascending else tuple(column.desc() for column in order)
            query = select(files).where(*where).order_by(*ordered).limit(limit + 1)
            return list(connection.execute(query))

        rows = self._database.read(read)
        return [_stored(row) for row in rows[:limit]], len(rows) > limit

    def read(self, file: StoredFile, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """Its bytes from `start` on, in small chunks. Raises NotFound where they are gone."""
        left = file.bytes - start
        if length is not None:
            left = min(left, length)
        try:
            for chunk in self._blobs.read(file.id, start, length):
                left -= len(chunk)
                yield chunk
            if left > 0:
                raise BlobMissing(file.id)
        except BlobMissing:
            raise NotFound(f"The content of file {file.id} is not stored any more.") from None

    def delete(self, key_id: int, file_id: str) -> None:
        """Raises NotFound. Its bytes stay while a batch that has not ended reads them."""
        check_id(file_id)
        delete = files.update().where(files.c.id == file_id, *_listed(key_id))
        delete = delete.values(state=DELETED, worker_id=None)
        if not self._database.write(lambda connection: connection.execute(delete).rowcount):
            raise not_found(file_id)
        self._sweep_at = 0.0
        self.tick()

    def usage(self, key_id: int) -> int:
        """How many bytes the files of a key have that count against its quota."""
        return self._database.read(lambda connection: usage_of(connection, key_id))

    def check_quota(self, key_id: int) -> None:
        """Raise StorageQuotaExceeded if a key has no bytes left, as for results, which may exceed
        its quota."""
        if (used := self.usage(key_id)) >= self._quota:
            raise quota_exceeded(self._quota, used)

    def tick(self) -> None:
        """Sweep, if due, in a greenlet of its own: a slow store must not stop heartbeats."""
        if time.monotonic() >= self._sweep_at and not self._sweeper:
            self._sweep_at = time.monotonic() + SWEEP_INTERVAL
            self._sweeper = gevent.spawn(self._sweep_and_log)

    def close(self) -> None:
        """Sweep no more. A sweep that began after this worker has left would register it again."""
        self._sweep_at = math.inf
        if self._sweeper:
            self._sweeper.join(CLOSE_TIMEOUT)
            self._sweeper.kill()

    def sweep(self) -> int:
        """Remove files that have expired, were deleted, or were left by a worker that is gone.

        What is removed belongs to this worker meanwhile, so that no two remove the same. Returns
        how many there were, SWEPT_AT_ONCE at the most.
        """
        for upload in tuple(self._failed.values()):
            self._remove_failed(upload)
        worker_id = self._worker_id()
        ids = self._database.write(lambda connection: _take_expired(connection, worker_id))
        for file_id in ids:
            self._remove(file_id)
        return len(ids)

    def _sweep_and_log(self) -> None:
        try:
            while self.sweep() == SWEPT_AT_ONCE:
                pass
        except StoreUnavailable as error:
            if not error.logged:
                log.warning("Expired files are not removed: the storage is unavailable")
        except Exception:
            log.exception("Expired files could not be removed")

    def _counted(self, upload: _Upload, chunks: Iterable[bytes]) -> Iterator[bytes]:
        counted = 0
        for chunk in chunks:
            upload.size += len(chunk)
            if upload.max_bytes is not None and upload.size > upload.max_bytes:
                raise PayloadTooLarge(f"The file is larger than {upload.max_bytes:,} bytes.")
            if upload.size - counted >= COUNTED_EVERY:
                self._count(upload, {})
                counted = upload.size
            yield chunk

    def _count(self, upload: _Upload, changes: dict[str, Any]) -> None:
        if not self._database.write(lambda connection: _count(connection, upload, changes)):
            # This process was frozen: others took it for gone, and have removed the file.
            raise StoreUnavailable("The upload was interrupted. Try again.")

    def _remove_failed(self, upload: _Upload) -> None:
        """Remove what is left of an upload, now or with a later sweep."""
        try:
            if self._database.write(lambda connection: _fail(connection, upload)):
                self._remove(upload.id)
            self._failed.pop(upload.id, None)
        except StoreUnavailable:
            pass

    def _remove(self, file_id: str) -> None:
        self._blobs.delete(file_id)
        gone = files.delete().where(files.c.id == file_id, files.c.state == DELETED)
        self._database.write(lambda connection: connection.execute(gone))

    def _read_one(self, *where: ColumnElement[bool]) -> StoredFile | None:
        query = select(files).where(*where)
        row = self._database.read(lambda connection: connection.execute(query).first())
        return _stored(row) if row else None


@dataclass(slots=True)
class _Upload:
    """A file that is being written. `size` is what has come; limits are None for results.

    Its id and `created_at` name its row: one that writes the same file anew has another time.
    """

    id: str
    key_id: int
    created_at: float
    max_bytes: int | None
    quota: int | None
    size: int = 0


def _begin(connection: Connection, upload: _Upload, row: dict[str, Any]) -> bool:
    """Insert its row in place of an earlier one; False if a sweep removes that just now, as it
    would remove the new bytes too."""
    same = files.c.id == upload.id
    connection.execute(files.delete().where(same, files.c.state != DELETED))
    if connection.execute(select(files.c.id).where(same)).first():
        return False
    _check_quota(connection, upload, at_least=1)
    connection.execute(files.insert().values(row))
    return True


def _count(connection: Connection, upload: _Upload, changes: dict[str, Any]) -> bool:
    """Count what has come of an upload, and change its row; False if it was removed.

    Raises StorageQuotaExceeded.
    """
    _check_quota(connection, upload)
    update = files.update().where(*_row_of(upload), files.c.state == UPLOADING)
    update = update.values(bytes=upload.size, **changes)
    return bool(connection.execute(update).rowcount)


def _fail(connection: Connection, upload: _Upload) -> bool:
    """Whether its bytes are to be removed: not if the same file is written anew."""
    fail = files.update().where(*_row_of(upload)).values(state=DELETED)
    if connection.execute(fail).rowcount:
        return True
    another = select(files.c.id).where(files.c.id == upload.id)
    return connection.execute(another).first() is None


def _row_of(upload: _Upload) -> list[ColumnElement[bool]]:
    return [files.c.id == upload.id, files.c.created_at == upload.created_at]


def _check_quota(connection: Connection, upload: _Upload, *, at_least: int = 0) -> None:
    if upload.quota is None:
        return
    lock_quotas(connection, upload.key_id)
    used = usage_of(connection, upload.key_id, files.c.id != upload.id)
    if used + max(upload.size, at_least) > upload.quota:
        raise quota_exceeded(upload.quota, used)


def _take_expired(connection: Connection, worker_id: int) -> list[str]:
    alive = select(workers.c.id)
    over = or_(
        files.c.state == DELETED,
        and_(files.c.state == READY, files.c.expires_at <= time.time()),
        and_(files.c.state == UPLOADING, files.c.worker_id.not_in(alive)),
    )
    free = or_(
        files.c.worker_id.is_(None),
        files.c.worker_id == worker_id,
        files.c.worker_id.not_in(alive),
    )
    few = select(files.c.id).where(over, free, ~is_read()).limit(SWEPT_AT_ONCE)
    few = few.with_for_update(skip_locked=True)
    take = files.update().where(files.c.id.in_(few)).values(state=DELETED, worker_id=worker_id)
    return list(connection.execute(take.returning(files.c.id)).scalars())


def _listed(key_id: int) -> list[ColumnElement[bool]]:
    """What a client sees of its files."""
    return [
        files.c.key_id == key_id,
        files.c.state == READY,
        files.c.expires_at > time.time(),
    ]


def _stored(row: Row[Any]) -> StoredFile:
    return StoredFile(
        row.id,
        row.key_id,
        row.purpose,
        row.filename,
        row.bytes,
        int(row.created_at),
        int(row.expires_at),
    )
