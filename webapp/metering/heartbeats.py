"""Which workers live: each counts up a number of its own, and watches those of the others.

No clock takes part: a worker is gone when its number stood still at so many looks in a row, each
of which reached the database. So neither a clock that jumps nor a database that was away for a
while makes anybody look dead.
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

MAX_MISSED_BEATS = 10  # looks, a second apart


class Heartbeats:
    """This worker's number, and what it has seen of the others. Raises StoreUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._seen: dict[int, tuple[int, int]] = {}
        self._registering = BoundedSemaphore()
        self.worker_id: int | None = None

    def register(self) -> int:
        """The id of this worker, which no other one ever has."""
        with self._registering:
            if self.worker_id is None:
                insert = workers.insert().values(beat=0).returning(workers.c.id)
                self.worker_id = self._database.write(lambda c: c.execute(insert).scalar_one())
            return self.worker_id

    def beat(self) -> list[int]:
        """Count up, and look at the others: the ids of those that are gone."""
        if self.worker_id is not None and not self._database.write(self._count_up):
            # Taken for gone; the calls from now on are another worker's.
            self.worker_id = None
        rows = self._database.read(lambda connection: connection.execute(select(workers)).all())
        beats = {row.id: row.beat for row in rows if row.id != self.worker_id}
        self._seen = {worker: (beat, self._still(worker, beat)) for worker, beat in beats.items()}
        return [worker for worker, (_, still) in self._seen.items() if still >= MAX_MISSED_BEATS]

    def _count_up(self, connection: Connection) -> bool:
        mine = workers.update().where(workers.c.id == self.worker_id)
        return bool(connection.execute(mine.values(beat=workers.c.beat + 1)).rowcount)

    def _still(self, worker: int, beat: int) -> int:
        before, still = self._seen.get(worker, (None, 0))
        return still + 1 if before == beat else 0

    def forget(self, worker: int, connection: Connection) -> bool:
        """Take the worker for gone; False where it has counted on, or another one did this."""
        beat, _ = self._seen[worker]
        same = (workers.c.id == worker, workers.c.beat == beat)
        return bool(connection.execute(workers.delete().where(*same)).rowcount)

    def leave(self) -> None:
        """This worker has nothing left to do."""
        if self.worker_id is not None:
            delete = workers.delete().where(workers.c.id == self.worker_id)
            self._database.write(lambda connection: connection.execute(delete))
            self.worker_id = None
