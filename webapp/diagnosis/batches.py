"""Checks of what batches need: the broker, workers, and the storage of files."""

from __future__ import annotations

import secrets
import shutil
import threading
import time
from collections.abc import Iterator
from urllib.parse import unquote

from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError

from webapp.batches.broker import make_celery
from webapp.batches.figures import read_figures
from webapp.diagnosis.database import DISK_WARNING
from webapp.diagnosis.finding import Finding
from webapp.errors import StoreUnavailable
from webapp.files.tables import DELETED, files
from webapp.services import Services
from webapp.settings import Settings
from webapp.storage.blobs import BlobStore, make_blob_store

BROKER_TIMEOUT = 3.0  # seconds
FILES_WARNING = 0.9  # of a key's quota
PROBE = b"weir doctor"


def check_broker(services: Services) -> Iterator[Finding]:
    settings = services.settings
    if not settings.broker:
        yield Finding(
            "broker", "ok", "not configured: workers look into the database by themselves"
        )
        return
    variable = "BROKER_URL" if settings.broker_url else "REDIS_URL"
    scheme = settings.broker.partition("://")[0]
    began = time.perf_counter()
    if error := _connection_error(settings):
        yield Finding(
            "broker", "problem", f"{scheme}: cannot be reached ({error})",
            f"Check {variable}. Workers look into the database by themselves meanwhile.",
        )  # fmt: skip
    else:
        took = (time.perf_counter() - began) * 1000
        yield Finding("broker", "ok", f"{scheme} answers in {took:.1f} ms ({variable})")


def check_batch_workers(services: Services) -> Iterator[Finding]:
    try:
        seen = services.database.read(read_figures)
    except (StoreUnavailable, SQLAlchemyError):
        return  # reported by the database check
    waiting = f"{seen.waiting_lines} lines wait"
    if seen.workers:
        processes = "process" if seen.workers == 1 else "processes"
        yield Finding("batches", "ok", f"{seen.workers} {processes} of flask worker; {waiting}")
    elif services.settings.broker_url:
        yield Finding(
            "batches", "warning",
            f"no flask worker was seen: the serving processes do its work; {waiting}",
            "Start flask worker, with the same settings.",
        )  # fmt: skip
    else:
        yield Finding("batches", "ok", f"the serving processes work on them; {waiting}")


def check_files(services: Services) -> Iterator[Finding]:
    settings, database = services.settings, services.database
    try:
        total, fullest = database.read(lambda connection: connection.execute(_SIZES).one())
    except (StoreUnavailable, SQLAlchemyError):
        return  # reported by the database check
    began = time.perf_counter()
    try:
        is_kept = _try_out(make_blob_store(settings.files_url, settings.data_dir, database))
    except Exception as error:  # noqa: BLE001 each store has errors of its own
        found = f"cannot be written, read and deleted ({type(error).__name__})"
        advice = (
            "Check FILES_URL, that its storage is there, and what Weir may do in it. See the log."
        )
        yield Finding("files", "problem", found, advice)
        return
    if not is_kept:
        yield Finding("files", "problem", "other bytes were read than written", "Check FILES_URL.")
        return
    took = (time.perf_counter() - began) * 1000
    place = settings.files_url.partition("://")[0] or ("file" if database.is_sqlite else "database")
    yield Finding("files", "ok", f"{place}: written, read and deleted in {took:.1f} ms")
    used = fullest / settings.files_quota_bytes
    found = f"{_megabytes(total)} in all; the key with most has {used:.0%} of its quota"
    if used >= FILES_WARNING:
        advice = "Delete files of this key, or raise FILES_QUOTA_BYTES."
        yield Finding("files", "warning", found, advice)
    else:
        yield Finding("files", "ok", found)
    if place == "file" and (free := _free(settings)) < DISK_WARNING:
        found = f"{_megabytes(free)} are free on their disk"
        yield Finding("files", "warning", found, "Free up disk space.")


def _connection_error(settings: Settings) -> str:
    """What prevents a connection to the broker. In a thread: not all transports give up in time."""
    error = "no answer in time"

    def connect() -> None:
        nonlocal error
        try:
            verify = settings.platform != "heroku"
            celery = make_celery(settings.broker, verify_certificate=verify)
            with celery.connection_for_write(connect_timeout=BROKER_TIMEOUT) as connection:
                connection.connect()
            error = ""
        except Exception as raised:  # noqa: BLE001 each transport has errors of its own
            error = type(raised).__name__

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(BROKER_TIMEOUT)
    return error


def _try_out(blobs: BlobStore) -> bool:
    """Whether what is written can be read. It is deleted again."""
    name = f"weir-doctor-{secrets.token_hex(8)}"
    try:
        blobs.write(name, [PROBE])
        return b"".join(blobs.read(name)) == PROBE
    finally:
        blobs.delete(name)


def _free(settings: Settings) -> int:
    """Free bytes on the disk of a folder that was just written to."""
    folder = unquote(settings.files_url.partition("://")[2])
    return shutil.disk_usage(folder or settings.data_dir).free


def _megabytes(size: int) -> str:
    return f"{size / 2**20:,.0f} MB"


_OF_KEYS = (
    select(func.sum(files.c.bytes).label("bytes"))
    .where(files.c.state != DELETED)
    .group_by(files.c.key_id)
    .subquery()
)
_SIZES = select(
    func.coalesce(func.sum(_OF_KEYS.c.bytes), 0), func.coalesce(func.max(_OF_KEYS.c.bytes), 0)
)
