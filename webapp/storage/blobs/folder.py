"""Blobs as files in a folder."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

from webapp.errors import StoreUnavailable
from webapp.storage import private_files
from webapp.storage.blobs import BlobMissing
from webapp.threads import NativeThreads

log = logging.getLogger(__name__)

Result = TypeVar("Result")

BLOCK = 256 * 1024  # bytes read at once
THREADS = 4


class FolderBlobStore:
    """A blob is written under a temporary name, and renamed once all of it is on the disk.

    Its own threads: a network disk that hangs holds nobody else up.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._threads = NativeThreads(THREADS)

    def write(self, name: str, chunks: Iterable[bytes]) -> int:
        unfinished = self._unfinished(name)

        def create() -> int:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            return private_files.create(str(unfinished), os.O_WRONLY | os.O_EXCL)

        file = self._run(create)
        size = 0
        try:
            for chunk in chunks:
                self._run(partial(_write_all, file, chunk))
                size += len(chunk)
            self._run(lambda: os.fsync(file))
        finally:
            self._run(lambda: os.close(file))
        self._run(lambda: self._rename(unfinished, name))
        return size

    def read(self, name: str, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        file = self._run(lambda: _open(self._folder / name))
        if file is None:
            raise BlobMissing(name)
        try:
            left = length
            while left is None or left > 0:
                size = BLOCK if left is None else min(BLOCK, left)
                block = self._run(partial(os.pread, file, size, start))
                if not block:
                    return
                start += len(block)
                left = None if left is None else left - len(block)
                yield block
        finally:
            os.close(file)

    def delete(self, name: str) -> None:
        def remove() -> None:
            for path in (self._folder / name, self._unfinished(name)):
                with suppress(FileNotFoundError):
                    path.unlink()

        self._run(remove)

    def _unfinished(self, name: str) -> Path:
        return self._folder / f"{name}.part"

    def _rename(self, unfinished: Path, name: str) -> None:
        unfinished.rename(self._folder / name)
        # The folder, so that the name outlasts a power failure.
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _run(self, work: Callable[[], Result]) -> Result:
        try:
            return self._threads.run(work)
        except OSError as error:
            log.error(
                "The folder of files, %s, cannot be used: %s. Free space on its disk, or make it "
                "writable for Weir's user.",
                self._folder,
                error.strerror,
            )
            unavailable = StoreUnavailable("The storage of files is unavailable. Try again later.")
            unavailable.logged = True
            raise unavailable from error


def _open(path: Path) -> int | None:
    try:
        return os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None


def _write_all(file: int, chunk: bytes) -> None:
    left = memoryview(chunk)
    while left:
        left = left[os.write(file, left) :]
