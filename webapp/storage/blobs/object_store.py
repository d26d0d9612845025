"""Blobs in S3 and what speaks its protocol, in Google Cloud Storage, in Azure Blob Storage.

Credentials are those of the cloud's own variables (AWS_…, GOOGLE_…, AZURE_…), or of the machine.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from datetime import timedelta
from functools import cached_property, partial
from typing import Any, TypeVar

from webapp.errors import StoreUnavailable
from webapp.storage.blobs import BlobMissing
from webapp.threads import NativeThreads

log = logging.getLogger(__name__)

Result = TypeVar("Result")

MEBIBYTE = 1024 * 1024
# A store takes at most 10,000 parts: 50 GB. At most two parts of a blob are sent at once.
PART = 5 * MEBIBYTE
PARTS_AT_ONCE = 2
READ_AT_ONCE = 2 * MEBIBYTE
CHUNK = 256 * 1024  # bytes that read() yields
THREADS = 8
CONNECT_TIMEOUT = timedelta(seconds=3)
TIMEOUT = timedelta(seconds=30)  # of one request
MAX_RETRIES = 3
RETRY_TIMEOUT = timedelta(seconds=20)


class ObjectBlobStore:
    """Writes in parts, and reads in ranges: nothing stays open for a client that is slow."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._threads = NativeThreads(THREADS)

    def write(self, name: str, chunks: Iterable[bytes]) -> int:
        obstore, store = self._client
        options = {"buffer_size": PART, "max_concurrency": PARTS_AT_ONCE}
        writer = self._run(partial(obstore.open_writer, store, name, **options))
        size, works = 0, True
        try:
            for chunk in chunks:
                works = False
                self._run(partial(writer.write, chunk))
                works = True
                size += len(chunk)
        except BaseException:
            # What has come is completed, for delete() to remove: parts of an upload that is not
            # would stay, unseen, and cost money. A writer that failed cannot do that.
            if works:
                with suppress(StoreUnavailable):
                    self._run(writer.close)
            raise
        self._run(writer.close)
        return size

    def read(self, name: str, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        obstore, store = self._client
        found = self._run(_unless_missing(partial(obstore.head, store, name)))
        if found is None:
            raise BlobMissing(name)
        end = found["size"] if length is None else min(found["size"], start + length)
        while start < end:
            upto = min(end, start + READ_AT_ONCE)
            get = partial(obstore.get_range, store, name, start=start, end=upto)
            part = self._run(_unless_missing(get))
            if part is None:
                raise BlobMissing(name)
            view = memoryview(part)
            for at in range(0, len(view), CHUNK):
                yield bytes(view[at : at + CHUNK])
            start = upto

    def delete(self, name: str) -> None:
        obstore, store = self._client
        self._run(_unless_missing(partial(obstore.delete, store, name)))

    @cached_property
    def _client(self) -> tuple[Any, Any]:
        """The library, which has threads of its own: made in the worker, not before a fork."""
        return self._run(partial(_connect, self._url))

    def _run(self, work: Callable[[], Result]) -> Result:
        try:
            return self._threads.run(work)
        except (OSError, ValueError, *_errors()) as error:
            log.error("The storage of files, %s, cannot be used: %s", self._url, _reason(error))
            unavailable = StoreUnavailable("The storage of files is unavailable. Try again later.")
            unavailable.logged = True
            raise unavailable from error


def _errors() -> tuple[type[Exception]]:
    from obstore.exceptions import BaseError

    return (BaseError,)


def _unless_missing(work: Callable[[], Result]) -> Callable[[], Result | None]:
    def attempt() -> Result | None:
        try:
            return work()
        except FileNotFoundError:
            return None

    return attempt


def _connect(url: str) -> tuple[Any, Any]:
    import obstore
    from obstore.store import from_url

    return obstore, from_url(
        url,
        client_options={"connect_timeout": CONNECT_TIMEOUT, "timeout": TIMEOUT, "allow_http": True},
        retry_config={"max_retries": MAX_RETRIES, "retry_timeout": RETRY_TIMEOUT},
    )


def _reason(error: Exception) -> str:
    """The first line: what follows shows the whole request."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__
