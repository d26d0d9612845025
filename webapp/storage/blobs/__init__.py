"""Blobs: the bytes of files, in a folder, in the database, or in a cloud's object store."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import unquote

if TYPE_CHECKING:
    from webapp.storage.database import Database


class BlobStore(Protocol):
    """Keeps the bytes of files by name, and never holds a whole file in memory.

    Names are of [A-Za-z0-9_-]. Every method may raise StoreUnavailable.
    """

    def write(self, name: str, chunks: Iterable[bytes]) -> int:
        """Store a new blob, and return its size in bytes. What raises midway leaves no blob that
        read() would find; delete() removes what was written of it."""
        ...

    def read(self, name: str, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """The bytes from `start` on, as chunks of at most 1 MiB. Raises BlobMissing."""
        ...

    def delete(self, name: str) -> None:
        """Remove a blob, if there is one."""
        ...


class BlobMissing(Exception):
    """There is no such blob: it was deleted, or FILES_URL was changed."""


def make_blob_store(files_url: str, data_dir: Path, database: Database) -> BlobStore:
    """The store that FILES_URL names; without it a folder beside SQLite, else the database.

    Only the one that is used is imported.
    """
    if not files_url:
        files_url = f"file://{data_dir / 'files'}" if database.is_sqlite else "database://"
    scheme, _, place = files_url.partition("://")
    if scheme == "file":
        from webapp.storage.blobs.folder import FolderBlobStore

        return FolderBlobStore(Path(unquote(place)))
    if scheme == "database":
        from webapp.storage.blobs.table import TableBlobStore

        return TableBlobStore(database)
    from webapp.storage.blobs.object_store import ObjectBlobStore

    return ObjectBlobStore(files_url)
