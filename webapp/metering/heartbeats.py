"""Heartbeats of workers: each worker increments its own counter and watches those of the others.

A worker is gone when its counter has not changed for MAX_MISSED_BEATS successful reads. No clock is
compared, so a clock that jumps or a database outage does not make a live worker look gone.
"""

from __future__ import annotations

from gevent.lock import BoundedSemaphore
from sqlalchemy import BigInteger, Column, Connection, Integer, Table, select

from webapp.storage.database import Database, metadata

workers = Table(
    "workers",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("beat", BigInteger, nullable=False),
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
        self.worker_id: int | None = None

    def register(self) -> int:
        """The id of this worker. Ids are never reused."""
        with self._registering:
            if self.worker_id is None:
                insert = workers.insert().values(beat=0).returning(workers.c.id)
                self.worker_id = self._database.write(lambda c: c.execute(insert).scalar_one())
            return self.worker_id

    def beat(self) -> list[int]:
        """Increment this worker's counter, and return the ids of the workers that are gone."""
        if self.worker_id is not None and not self._database.write(self._increment):
            # Another worker took this one for gone. Register again with a new id.
            self.worker_id = None
        rows = self._database.read(lambda connection: connection.execute(select(workers)).all())
        beats = {row.id: row.beat for row in rows if row.id != self.worker_id}
        self._seen = {worker: (beat, self._missed(worker, beat)) for worker, beat in beats.items()}
        return [worker for worker, (_, missed) in self._seen.items() if missed >= MAX_MISSED_BEATS]

    def _increment(self, connection: Connection) -> bool:
        own_row = workers.update().where(workers.c.id == self.worker_id)
        return bool(connection.execute(own_row.values(beat=workers.c.beat + 1)).rowcount)

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
            if self.worker_id is not None:
                delete = workers.delete().where(workers.c.id == self.worker_id)
                self._database.write(lambda connection: connection.execute(delete))
                self.worker_id = None
