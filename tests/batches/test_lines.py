"""Lines in the database: claimed once, freed when their worker is gone, written by their owner."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Connection, insert, select, update

from tests.support.batches import add_calls
from webapp.batches.batch import Batch, LineUpdate, NewLine
from webapp.batches.batch_store import BatchStore
from webapp.batches.lines import LineStore, write_updates
from webapp.batches.retention import expired
from webapp.batches.tables import BatchState, LineState, Mode, batch_lines, batches
from webapp.errors import RateLimitExceeded, StorageQuotaExceeded
from webapp.files.tables import files
from webapp.metering.heartbeats import Heartbeats, workers
from webapp.storage.database import Database
from webapp.storage.retention import Retention


@pytest.fixture
def lines(database: Database) -> LineStore:
    return LineStore(database)


def a_batch(database: Database, count: int, *, on_lost: str = "retry") -> Batch:
    """A batch in progress with so many lines."""
    store = BatchStore(database)
    batch = store.create(
        key_id=1,
        endpoint="/v1/chat/completions",
        input_file_id="file-x",
        metadata=None,
        completion_window="24h",
        seconds=86_400.0,
        mode=Mode.DIRECT,
        cap_nano=None,
        on_lost=on_lost,
        output_expires_after=None,
        request_id="r",
    )
    new = [NewLine(number, f"c{number}", number * 10, 9) for number in range(1, count + 1)]
    LineStore(database).insert(batch.id, new)
    begun = store.move(batch.id, BatchState.IN_PROGRESS, of=[BatchState.VALIDATING], total=count)
    assert begun
    return begun


def state_of(database: Database, batch: Batch) -> Batch:
    return BatchStore(database).find(batch.id)


def a_worker(database: Database) -> int:
    return Heartbeats(database).register()


def forget(database: Database, worker_id: int) -> None:
    """What others do when a worker sends no heartbeats."""
    gone = workers.delete().where(workers.c.id == worker_id)
    database.write(lambda connection: connection.execute(gone))


def test_two_workers_never_claim_the_same_line(database: Database, lines: LineStore) -> None:
    batch, owners = a_batch(database, 200), [a_worker(database), a_worker(database)]

    def claim_all(owner: int) -> list[int]:
        numbers: list[int] = []
        while claimed := lines.claim(batch, owner, 7):
            numbers += [line.number for line in claimed]
        return numbers

    with ThreadPoolExecutor(2) as pool:
        claimed = [number for numbers in pool.map(claim_all, owners) for number in numbers]
    assert sorted(claimed) == list(range(1, 201))


def test_what_a_lost_worker_had_not_begun_is_free_as_if_never_claimed(
    database: Database, lines: LineStore
) -> None:
    batch, lost = a_batch(database, 4, on_lost="fail"), a_worker(database)
    lines.claim(batch, lost, 4)
    add_calls(database, batch, lost, 2)
    forget(database, lost)
    assert lines.free_lost() == 4
    again = lines.claim(batch, a_worker(database), 4)
    assert [(line.number, line.lost) for line in again] == [(1, 0), (3, 0), (4, 0)]
    assert state_of(database, batch).failed == 1
    assert lines.failures(batch.id) == {"worker_lost": 1}


def test_a_line_that_was_begun_is_begun_again_and_says_so_until_it_was_lost_three_times(
    database: Database, lines: LineStore
) -> None:
    batch = a_batch(database, 1)
    for times in range(3):
        lost = a_worker(database)
        [line] = lines.claim(batch, lost, 1)
        assert line.lost == times
        add_calls(database, batch, lost, 1)
        forget(database, lost)
        lines.free_lost()
    assert not lines.claim(batch, a_worker(database), 1)
    assert (state_of(database, batch).failed, state_of(database, batch).waiting) == (1, 0)


def test_a_worker_that_was_taken_for_gone_changes_nothing_any_more(
    database: Database, lines: LineStore
) -> None:
    batch, slow, other = a_batch(database, 1), a_worker(database), a_worker(database)
    [late] = lines.claim(batch, slow, 1)
    forget(database, slow)
    lines.free_lost()
    [line] = lines.claim(batch, other, 1)
    too_late = LineUpdate(late, LineState.SUCCEEDED, b"late")
    database.write(lambda connection: write_updates(connection, [too_late]))
    assert state_of(database, batch).succeeded == 0
    in_time = LineUpdate(line, LineState.SUCCEEDED, b"in time")
    for _ in range(2):
        database.write(lambda connection: write_updates(connection, [in_time]))
    assert state_of(database, batch).succeeded == 1
    assert [result for *_, result in lines.results(batch.id, LineState.SUCCEEDED)] == [b"in time"]


def test_results_are_read_in_order_whatever_their_size(
    database: Database, lines: LineStore
) -> None:
    batch, owner = a_batch(database, 5), a_worker(database)
    claimed = lines.claim(batch, owner, 5)
    sizes = [5 * 1024 * 1024, 1, 5 * 1024 * 1024, 9 * 1024 * 1024, 2]
    updates = [
        LineUpdate(line, LineState.SUCCEEDED, b"x" * size)
        for line, size in zip(claimed, sizes, strict=True)
    ]
    for one in updates:
        database.write(lambda connection, one=one: write_updates(connection, [one]))
    found = [
        (number, len(result or b""))
        for number, _, _, result in lines.results(batch.id, LineState.SUCCEEDED)
    ]
    assert found == list(enumerate(sizes, 1))


def test_no_line_begins_once_its_batch_is_stopped(database: Database, lines: LineStore) -> None:
    batch = a_batch(database, 3)
    BatchStore(database).stop(batch.id, {"code": "cost_cap_reached", "message": "…"})
    assert not lines.claim(batch, a_worker(database), 3)
    assert lines.stop(batch.id, "cost_cap_reached") == 3
    assert state_of(database, batch).waiting == 0


def test_the_batches_of_one_key_never_hide_those_of_another(database: Database) -> None:
    store = BatchStore(database)
    for key_id in (*[1] * 60, 2):
        store.create_job(
            key_id=key_id,
            endpoint="/chat",
            request=b"{}",
            quota=10**9,
            callback_url=None,
            seconds=60.0,
            request_id="r",
        )
    keys = [batch.key_id for batch in store.active()]
    assert keys[:2] == [1, 2], "they take turns"
    assert len(keys) == 51


def test_what_a_worker_has_taken_it_may_take_again_and_no_other(database: Database) -> None:
    store, worker, other = BatchStore(database), a_worker(database), a_worker(database)
    batch = store.create(
        key_id=1,
        endpoint="/v1/embeddings",
        input_file_id="file-x",
        metadata=None,
        completion_window="24h",
        seconds=60.0,
        mode=Mode.DIRECT,
        cap_nano=None,
        on_lost="retry",
        output_expires_after=None,
        request_id="r",
    )
    for _ in range(2):
        assert store.take(batch.id, BatchState.VALIDATING, worker)
    assert store.take(batch.id, BatchState.VALIDATING, other) is None
    begun = {"of": [BatchState.VALIDATING], "total": 1}
    assert store.move(batch.id, BatchState.IN_PROGRESS, taken_by=other, **begun) is None
    assert store.move(batch.id, BatchState.IN_PROGRESS, taken_by=worker, **begun)


def test_two_jobs_that_race_for_the_last_bytes_of_the_quota(database: Database) -> None:
    store = BatchStore(database)

    def create(number: int) -> int:
        try:
            store.create_job(
                key_id=1,
                endpoint="/chat",
                request=b"x" * 100,
                quota=500,
                callback_url=None,
                seconds=60.0,
                request_id="r",
            )
        except StorageQuotaExceeded:
            return 0
        return 1

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(create, range(40))) == 5


def test_a_key_has_a_hundred_batches_at_most_that_have_not_ended(database: Database) -> None:
    def create(_: int) -> int:
        try:
            a_batch(database, 1)
        except RateLimitExceeded:
            return 0
        return 1

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(create, range(110))) == 100
    end = update(batches).where(batches.c.id == select(batches.c.id).limit(1).scalar_subquery())
    database.write(lambda c: c.execute(end.values(state=BatchState.COMPLETED)))
    assert create(0) == 1


def test_failed_lines_are_kept_for_as_long_as_the_input_is_there(database: Database) -> None:
    kept, running, gone = (a_batch(database, 1) for _ in range(3))
    file = {
        "id": "file-there", "key_id": 1, "purpose": "batch", "filename": "f", "bytes": 1,
        "state": "ready", "created_at": time.time(), "expires_at": time.time() + 60,
    }  # fmt: skip

    def write(connection: Connection) -> None:
        connection.execute(insert(files).values(file))
        connection.execute(update(batch_lines).values(state=LineState.FAILED))
        ended = update(batches).values(state=BatchState.COMPLETED)
        connection.execute(ended.where(batches.c.id.in_([kept.id, gone.id])))
        has_file = update(batches).where(batches.c.id == kept.id)
        connection.execute(has_file.values(input_file_id=file["id"]))

    database.write(write)
    Retention(database, expired(30, 7)).tick()
    with_lines = database.read(lambda c: set(c.scalars(select(batch_lines.c.batch_id))))
    assert with_lines == {kept.id, running.id}
