"""Heartbeats of workers: each worker increments its own counter and watches those of the others.

A worker is gone when its counter has not changed for MAX_MISSED_BEATS successful reads. No clock is
compared, so a clock that jumps or a database outage does not make a live worker look gone.
"""

from __future__ import annotations

from typing import Any

from gevent.lock import BoundedSemaphore
from sqlalchemy import BigInteger, Column, Connection, Float, Integer, Table, bindparam, select

from webapp.storage.database import Database, DatabaseTime, metadata

workers = Table(
    "workers",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("beat", BigInteger, nullable=False),
    # Of a process that works on batches alone: the database's time of its latest heartbeat.
    Column("batch_worker_seen_at", Float),
    sqlite_autoincrement=True,
)

MAX_MISSED_BEATS = 10  # reads, a second apart


class Heartbeats:
    """This worker's counter, and those of the others. Methods may raise StoreUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database
        # Worker id: its counter, and for how many reads it has not changed.
        self._seen: dict[int, tuple[int, int]] = {}
        self._registering = BoundedSemaphore()
        self._is_batch_worker = False
        self.worker_id: int | None = None

    def register_batch_worker(self) -> None:
        """Say with each heartbeat that this process works on batches alone."""
        self._is_batch_worker = True
        self.register()

    def register(self) -> int:
        """The id of this worker. Ids are never reused."""
        with self._registering:
            if self.worker_id is None:
                insert = workers.insert().values(beat=0, **self._seen_now).returning(workers.c.id)
                self.worker_id = self._database.write(lambda c: c.execute(insert).scalar_one())
            return self.worker_id

    def beat(self) -> list[int]:
        """Increment this worker's counter, and return the ids of the workers that are gone."""
        if self.worker_id is not None and not self._database.write(self._increment):
            # Another worker took this one for gone. Register again with a new id.
            self.worker_id = None
        if self._is_batch_worker:
            self.register()
        rows = self._database.read(lambda connection: connection.execute(select(workers)).all())
        beats = {row.id: row.beat for row in rows if row.id != self.worker_id}
        self._seen = {worker: (beat, self._missed(worker, beat)) for worker, beat in beats.items()}
        return [worker for worker, (_, missed) in self._seen.items() if missed >= MAX_MISSED_BEATS]

    def _increment(self, connection: Connection) -> bool:
        own_row = workers.update().where(workers.c.id == self.worker_id)
        values = {"beat": workers.c.beat + 1, **self._seen_now}
        return bool(connection.execute(own_row.values(**values)).rowcount)

    @property
    def _seen_now(self) -> dict[str, Any]:
        return {"batch_worker_seen_at": DatabaseTime()} if self._is_batch_worker else {}

    def _missed(self, worker: int, beat: int) -> int:
        before, missed = self._seen.get(worker, (None, 0))
        return missed + 1 if before == beat else 0

    def forget(self, worker: int, connection: Connection) -> bool:
        """Delete the row of a worker that is gone. False if it has changed or was deleted."""
        beat, _ = self._seen[worker]
        unchanged = (workers.c.id == worker, workers.c.beat == beat)
        return bool(connection.execute(workers.delete().where(*unchanged)).rowcount)

    def leave(self) -> None:
        """Delete this worker's row: it ends with all calls settled."""
        with self._registering:
            self._is_batch_worker = False
            if self.worker_id is not None:
                delete = workers.delete().where(workers.c.id == self.worker_id)
                self._database.write(lambda connection: connection.execute(delete))
                self.worker_id = None


def batch_worker_seen(connection: Connection, within: float) -> bool:
    """Whether a process that works on batches alone has sent a heartbeat in so many seconds."""
    return connection.execute(_SEEN, {"within": within}).first() is not None


# Made once: each expression would leave a cycle behind.
_SEEN = (
    select(workers.c.id)
    .where(workers.c.batch_worker_seen_at > DatabaseTime() - bindparam("within"))
    .limit(1)
)
