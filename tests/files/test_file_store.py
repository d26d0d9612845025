"""Files on both databases, with their bytes in a folder (SQLite) or a table (PostgreSQL)."""

from __future__ import annotations

import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gevent
import pytest
from sqlalchemy import func, select, text, update

from tests.support.servers import Postgres, wait_until
from webapp.batches.tables import batches
from webapp.errors import NotFound, PayloadTooLarge, StorageQuotaExceeded, StoreUnavailable
from webapp.files.file_store import FileStore
from webapp.files.tables import files
from webapp.metering.heartbeats import Heartbeats
from webapp.storage.blobs import BlobStore, make_blob_store
from webapp.storage.blobs.folder import FolderBlobStore
from webapp.storage.blobs.table import file_chunks
from webapp.storage.database import Database

KEY, ANOTHER = 1, 2
MEBIBYTE = 1024 * 1024
QUOTA = 4 * MEBIBYTE
DAY = 86_400


@dataclass
class Place:
    """A database, and where the bytes are."""

    database: Database
    blobs: BlobStore
    folder: Path

    def store(self, **settings: Any) -> FileStore:
        """As another process has it."""
        given = {"quota": QUOTA, "max_bytes": 3 * MEBIBYTE, "retention": (7, 30)} | settings
        heartbeats = Heartbeats(self.database)
        return FileStore(self.database, self.blobs, worker_id=heartbeats.register, **given)

    def rows(self) -> list[Any]:
        return self.database.read(lambda c: c.execute(select(files)).all())

    def stored(self) -> int:
        """How many blobs there are, or parts of some."""
        count = select(func.count()).select_from(file_chunks)
        rows: int = self.database.read(lambda c: c.execute(count).scalar_one())
        return rows + (len(list(self.folder.iterdir())) if self.folder.exists() else 0)

    def change(self, file_id: str, **values: Any) -> None:
        change = update(files).where(files.c.id == file_id).values(values)
        self.database.write(lambda c: c.execute(change))


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    if request.param == "sqlite":
        file = shutil.copy(request.getfixturevalue("migrated_file"), tmp_path)
        database = Database(f"sqlite:///{file}")
    else:
        url = request.getfixturevalue("fresh_database")
        database = Database(url.replace("postgresql://", "postgresql+psycopg://"))
    yield Place(database, make_blob_store("", tmp_path, database), tmp_path / "files")
    gevent.wait(timeout=10)  # deletions have begun sweeps, which would connect again later
    database.engine.dispose()


@pytest.fixture
def store(place: Place) -> FileStore:
    return place.store()


def save(store: FileStore, *chunks: bytes, key_id: int = KEY, **more: Any) -> Any:
    given = {"purpose": "batch", "filename": "in.jsonl"} | more
    return store.save(key_id, given.pop("purpose"), given.pop("filename"), chunks, **given)


def read(store: FileStore, file: Any, *part: Any) -> bytes:
    return b"".join(store.read(file, *part))


def test_a_file_is_found_and_read_as_it_was_saved(store: FileStore) -> None:
    before = int(time.time())
    file = save(store, b"one\n", b"two\n")
    assert re.fullmatch("file-[A-Za-z0-9]{24}", file.id)
    assert (file.purpose, file.filename, file.bytes) == ("batch", "in.jsonl", 8)
    assert before <= file.created_at <= time.time()
    assert file.expires_at - file.created_at in {7 * DAY, 7 * DAY + 1}
    assert store.find(KEY, file.id) == file
    assert read(store, file) == b"one\ntwo\n"
    assert read(store, file, 4, 3) == b"two"


def test_a_file_belongs_to_its_key(store: FileStore) -> None:
    file = save(store, b"x")
    for action in (store.find, store.delete):
        with pytest.raises(NotFound, match=f"No such File object: {file.id}"):
            action(ANOTHER, file.id)
    assert store.page(ANOTHER, purpose=None, after=None, limit=9, ascending=True) == ([], False)
    assert store.usage(ANOTHER) == 0
    assert store.find(KEY, file.id) == file


def test_results_are_kept_longer_and_nothing_longer_than_the_retention(store: FileStore) -> None:
    def days(**more: Any) -> int:
        file = save(store, b"x", **more)
        return round((file.expires_at - file.created_at) / DAY)

    assert days(purpose="batch_output") == 30
    assert days(keep_seconds=2 * DAY) == 2
    assert days(keep_seconds=20 * DAY) == 7
    assert days(purpose="batch_output", keep_seconds=20 * DAY) == 20


def test_pages_follow_each_other_in_both_directions(place: Place, store: FileStore) -> None:
    ids = [save(store, b"x", purpose="batch_output" if n == 3 else "batch").id for n in range(5)]
    for number, file_id in enumerate(ids):
        place.change(file_id, created_at=1_700_000_000 + number // 2)  # some at the same time
    save(store, b"x", key_id=ANOTHER)
    in_order = sorted(ids, key=lambda file_id: (ids.index(file_id) // 2, file_id))

    def paged(ascending: bool, purpose: str | None = None) -> list[str]:
        found: list[str] = []
        more = True
        while more:
            after = found[-1] if found else None
            page, more = store.page(KEY, purpose=purpose, after=after, limit=2, ascending=ascending)
            found += [file.id for file in page]
        return found

    assert paged(True) == in_order
    assert paged(False) == in_order[::-1]
    assert paged(True, "batch_output") == [ids[3]]
    with pytest.raises(NotFound):
        store.page(KEY, purpose=None, after="file-unknown", limit=2, ascending=True)


@pytest.mark.parametrize("ascending", [True, False])
def test_pages_go_on_from_a_file_that_was_deleted(store: FileStore, ascending: bool) -> None:
    """As with `for file in client.files.list(): client.files.delete(file.id)`."""
    ids = [save(store, b"x").id for _ in range(7)]
    found: list[str] = []
    more = True
    while more:
        after = found[-1] if found else None
        page, more = store.page(KEY, purpose=None, after=after, limit=2, ascending=ascending)
        for file in page:
            found.append(file.id)
            store.delete(KEY, file.id)
        store.sweep()
    assert found == (ids if ascending else ids[::-1])


def test_a_deleted_file_is_gone_at_once_and_its_bytes_with_the_sweep(
    place: Place, store: FileStore
) -> None:
    file = save(store, b"x")
    store.delete(KEY, file.id)
    with pytest.raises(NotFound):
        store.find(KEY, file.id)
    with pytest.raises(NotFound):
        store.delete(KEY, file.id)
    assert store.page(KEY, purpose=None, after=None, limit=9, ascending=True) == ([], False)
    assert store.usage(KEY) == 0
    assert store.sweep() == 1
    assert (place.rows(), place.stored()) == ([], 0)
    with pytest.raises(NotFound, match="not stored any more"):
        read(store, file)


def test_the_bytes_stay_while_a_batch_reads_them(place: Place, store: FileStore) -> None:
    deleted, expired = save(store, b"12"), save(store, b"345")
    batch = {
        "kind": "batch", "key_id": KEY, "endpoint": "/v1/embeddings", "completion_window": "24h",
        "mode": "direct", "on_lost": "retry", "total": 0, "succeeded": 0, "failed": 0,
        "request_id": "r", "callback_attempts": 0, "created_at": 0, "expires_at": 0,
    }  # fmt: skip
    rows = [
        batch | {"id": f"batch_{file.id}", "input_file_id": file.id, "state": state}
        for file, state in [(deleted, "in_progress"), (expired, "validating")]
    ]
    place.database.write(lambda c: c.execute(batches.insert(), rows))
    store.delete(KEY, deleted.id)
    place.change(expired.id, expires_at=time.time() - 1)
    assert store.sweep() == 0
    for file in (deleted, expired):
        with pytest.raises(NotFound):
            store.find(KEY, file.id)
        assert store.find_input(file.id).bytes == file.bytes
        assert read(store, file)
    # They still need room.
    assert store.usage(KEY) == 5
    place.database.write(lambda c: c.execute(update(batches).values(state="completed")))
    assert store.usage(KEY) == 0
    assert store.sweep() == 2
    assert place.stored() == 0


def test_an_expired_file_is_gone_for_its_key_at_once(place: Place, store: FileStore) -> None:
    file = save(store, b"x", keep_seconds=-1)
    with pytest.raises(NotFound):
        store.find(KEY, file.id)
    assert store.page(KEY, purpose=None, after=None, limit=9, ascending=True) == ([], False)
    assert store.sweep() == 1
    assert place.stored() == 0


def test_two_sweeps_at_once_remove_each_file_once(place: Place) -> None:
    stores = [place.store() for _ in range(2)]
    for _ in range(60):
        save(stores[0], b"x", keep_seconds=-1)
    with ThreadPoolExecutor(2) as pool:
        found = [sum(counts) for counts in pool.map(lambda s: [s.sweep(), s.sweep()], stores)]
    assert sum(found) == 60
    assert (place.rows(), place.stored()) == ([], 0)


def test_a_file_that_is_too_large_leaves_nothing(place: Place, store: FileStore) -> None:
    with pytest.raises(PayloadTooLarge):
        save(store, *[bytes(MEBIBYTE)] * 3, b"x")
    assert (place.rows(), place.stored()) == ([], 0)


def test_the_quota_is_for_all_files_of_a_key(place: Place, store: FileStore) -> None:
    save(store, bytes(3 * MEBIBYTE))
    with pytest.raises(StorageQuotaExceeded, match="4,194,304 bytes in all, and 3,145,728 are"):
        save(store, bytes(MEBIBYTE), b"x")
    assert len(place.rows()) == 1
    save(store, bytes(3 * MEBIBYTE), key_id=ANOTHER)
    save(store, bytes(MEBIBYTE))
    assert store.usage(KEY) == QUOTA
    with pytest.raises(StorageQuotaExceeded):
        save(store, b"x")


def test_results_count_and_are_never_refused(store: FileStore) -> None:
    save(store, bytes(QUOTA), b"x", purpose="batch_output")
    assert store.usage(KEY) == QUOTA + 1
    with pytest.raises(StorageQuotaExceeded):
        save(store, b"x")


def test_uploads_that_race_never_exceed_the_quota(place: Place) -> None:
    """Ten of 1 MiB each, for a quota of 4 MiB: each has its first half before any continues."""
    halves = threading.Barrier(10)

    def chunks() -> Iterator[bytes]:
        yield bytes(MEBIBYTE // 2)
        halves.wait(10)
        yield bytes(MEBIBYTE // 2)

    def upload(_: int) -> bool:
        store = place.store()
        try:
            store.save(KEY, "batch", "x", chunks())
        except StorageQuotaExceeded:
            return False
        return True

    with ThreadPoolExecutor(10) as pool:
        succeeded = sum(pool.map(upload, range(10)))
    assert succeeded == 4
    assert place.store().usage(KEY) == QUOTA


@pytest.mark.parametrize("place", ["postgresql"], indirect=True)
def test_an_upload_is_counted_after_one_of_the_same_key_that_is_being_counted(place: Place) -> None:
    """Both have passed the check before either one is counted, if they do not wait."""
    begun, go_on = threading.Event(), threading.Event()

    def chunks() -> Iterator[bytes]:
        begun.set()
        assert go_on.wait(10)
        yield bytes(3 * MEBIBYTE)

    def waiting() -> int:
        query = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
        count: int = place.database.read(lambda c: c.execute(query).scalar_one())
        return count

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(place.store().save, KEY, "batch", "first", chunks())
        assert begun.wait(10)
        with place.database.engine.connect() as holder, holder.begin():
            holder.execute(select(files).with_for_update())
            go_on.set()
            wait_until(lambda: waiting() == 1)
            second = pool.submit(save, place.store(), bytes(3 * MEBIBYTE))
            wait_until(lambda: waiting() == 2 or second.done())
        assert first.result(10).bytes == 3 * MEBIBYTE
        with pytest.raises(StorageQuotaExceeded):
            second.result(10)
    assert place.store().usage(KEY) == 3 * MEBIBYTE


class CutError(Exception):
    """What an upload raises whose client hangs up."""


def cut() -> Iterator[bytes]:
    yield bytes(2 * MEBIBYTE)
    raise CutError


def test_an_upload_that_is_cut_leaves_nothing(place: Place, store: FileStore) -> None:
    with pytest.raises(CutError):
        store.save(KEY, "batch", "x", cut())
    assert (place.rows(), place.stored()) == ([], 0)


def test_what_a_dead_worker_has_begun_is_removed(place: Place) -> None:
    """Its process is killed in the middle of an upload: neither row nor bytes are taken back."""
    heartbeats = Heartbeats(place.database)
    dead = FileStore(
        place.database, place.blobs, quota=QUOTA, max_bytes=QUOTA, retention=(7, 30),
        worker_id=heartbeats.register,
    )  # fmt: skip
    upload = cut_off_upload(dead)
    store = place.store()
    assert store.usage(KEY) == 2 * MEBIBYTE
    assert store.sweep() == 0
    heartbeats.leave()
    assert store.sweep() == 1
    assert (place.rows(), place.stored()) == ([], 0)
    # It was only frozen.
    with pytest.raises(StoreUnavailable):
        upload()
    assert (place.rows(), place.stored()) == ([], 0)


def cut_off_upload(store: FileStore) -> Callable[[], None]:
    """Begin an upload that waits after 2 MiB. Returns what lets it go on."""
    begun, go_on, raised = threading.Event(), threading.Event(), []

    def chunks() -> Iterator[bytes]:
        yield bytes(MEBIBYTE)
        yield bytes(MEBIBYTE)
        begun.set()
        assert go_on.wait(10)
        yield bytes(MEBIBYTE)

    def upload() -> None:
        try:
            store.save(KEY, "batch", "x", chunks())
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=upload)
    thread.start()
    assert begun.wait(10)

    def finish() -> None:
        go_on.set()
        thread.join(10)
        raise raised[0]

    return finish


def test_a_result_that_was_begun_is_written_anew(place: Place, store: FileStore) -> None:
    for content in (b"a first one", b"again"):
        file = save(store, content, purpose="batch_output", file_id="file-" + "R" * 24)
        assert file.id == "file-" + "R" * 24
        assert read(store, store.find(KEY, file.id)) == content
    assert len(place.rows()) == 1


def test_a_result_is_not_written_while_a_sweep_removes_what_was_begun_of_it(place: Place) -> None:
    """A worker has died while it wrote the result: one worker sweeps, another one writes anew."""
    deleting, go_on = threading.Event(), threading.Event()

    class SlowToDelete(FolderBlobStore):
        def delete(self, name: str) -> None:
            deleting.set()
            assert go_on.wait(10)
            super().delete(name)

    result = "file-" + "R" * 24
    dead = Heartbeats(place.database)
    place.blobs = FolderBlobStore(place.folder)
    save(place.store(), b"begun", purpose="batch_output", file_id=result)
    place.change(result, state="uploading", worker_id=dead.register())
    dead.leave()
    writer = place.store()
    place.blobs = SlowToDelete(place.folder)
    with ThreadPoolExecutor(1) as pool:
        sweep = pool.submit(place.store().sweep)
        assert deleting.wait(10)
        with pytest.raises(StoreUnavailable, match="being removed"):
            save(writer, b"whole", purpose="batch_output", file_id=result)
        go_on.set()
        assert sweep.result(10) == 1
    file = save(writer, b"whole", purpose="batch_output", file_id=result)
    assert read(writer, file) == b"whole"


@pytest.mark.parametrize("place", ["postgresql"], indirect=True)
def test_an_upload_during_which_the_database_goes_away_is_removed_later(
    place: Place, store: FileStore, postgres: Postgres
) -> None:
    def chunks() -> Iterator[bytes]:
        yield bytes(2 * MEBIBYTE)
        postgres.stop()
        yield bytes(MEBIBYTE)

    with pytest.raises(StoreUnavailable):
        store.save(KEY, "batch", "x", chunks())
    postgres.start()
    wait_until(place.database.ping)
    assert len(place.rows()) == 1
    store.sweep()
    assert (place.rows(), place.stored()) == ([], 0)


@pytest.mark.parametrize("place", ["sqlite"], indirect=True)
def test_a_folder_that_cannot_be_written_is_told_and_leaves_nothing(
    place: Place, store: FileStore, caplog: pytest.LogCaptureFixture
) -> None:
    place.folder.write_text("in its place")
    with pytest.raises(StoreUnavailable, match="storage of files"):
        save(store, b"x")
    assert f"The folder of files, {place.folder}, cannot be used" in caplog.text
    place.folder.unlink()
    store.sweep()
    assert place.rows() == []
