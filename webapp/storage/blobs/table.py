"""Blobs in the database, in chunks of a row each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

from sqlalchemy import Column, Connection, Integer, LargeBinary, String, Table, func, select

from webapp.storage.blobs import BlobMissing
from webapp.storage.database import Database, metadata

file_chunks = Table(
    "file_chunks",
    metadata,
    Column("file_id", String(40), primary_key=True),
    # From 1. Row 0 is written last: the blob's size, as decimal digits.
    Column("number", Integer, primary_key=True),
    Column("data", LargeBinary, nullable=False),
)

CHUNK = 256 * 1024  # bytes
SIZE = 0  # the number of the row that has the size
ROWS_DELETED = 64  # in one transaction


class TableBlobStore:
    """Each chunk is a transaction of its own, so that no write holds others up."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def write(self, name: str, chunks: Iterable[bytes]) -> int:
        size, written = 0, 0
        waiting = bytearray()
        for chunk in chunks:
            size += len(chunk)
            waiting += chunk
            while len(waiting) > CHUNK:
                written += 1
                self._insert(_row(name, written, bytes(waiting[:CHUNK])))
                del waiting[:CHUNK]
        last = [_row(name, written + 1, bytes(waiting))] if waiting else []
        self._insert(*last, _row(name, SIZE, str(size).encode()))
        return size

    def read(self, name: str, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        size = self._database.read(partial(_data, name=name, number=SIZE))
        if size is None:
            raise BlobMissing(name)
        end = int(size) if length is None else min(int(size), start + length)
        while start < end:
            number, offset = start // CHUNK + 1, start % CHUNK
            wanted = min(CHUNK - offset, end - start)
            data = self._database.read(
                partial(_data, name=name, number=number, offset=offset, length=wanted)
            )
            if not data:
                raise BlobMissing(name)
            start += len(data)
            yield data

    def delete(self, name: str) -> None:
        # The size goes first: what is left is no blob. PostgreSQL's DELETE has no LIMIT.
        few = (
            select(file_chunks.c.number)
            .where(file_chunks.c.file_id == name)
            .order_by(file_chunks.c.number)
            .limit(ROWS_DELETED)
        )
        delete = file_chunks.delete().where(
            file_chunks.c.file_id == name, file_chunks.c.number.in_(few)
        )
        deleted = ROWS_DELETED
        while deleted == ROWS_DELETED:
            deleted = self._database.write(lambda connection: connection.execute(delete).rowcount)

    def _insert(self, *rows: dict[str, Any]) -> None:
        self._database.write(lambda connection: connection.execute(file_chunks.insert(), rows))


def _row(name: str, number: int, data: bytes) -> dict[str, Any]:
    return {"file_id": name, "number": number, "data": data}


def _data(
    connection: Connection, name: str, number: int, offset: int = 0, length: int = CHUNK
) -> bytes | None:
    data = (
        file_chunks.c.data
        if (offset, length) == (0, CHUNK)
        else func.substr(file_chunks.c.data, offset + 1, length, type_=LargeBinary)
    )
    where = (file_chunks.c.file_id == name, file_chunks.c.number == number)
    found: bytes | None = connection.execute(select(data).where(*where)).scalar()
    return found
