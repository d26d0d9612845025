"""One suite for the ids of responses on both databases."""

from __future__ import annotations

import time

import pytest

from tests.support.servers import Postgres, wait_until
from webapp.errors import NotFound, StoreUnavailable
from webapp.storage.database import Database
from webapp.storage.response_ids import KEPT_FOR, ResponseIds, expired, responses
from webapp.storage.retention import Retention


def known(ids: ResponseIds, response_id: str, key_id: int) -> bool:
    try:
        ids.target_of(response_id, key_id)
    except NotFound:
        return False
    return True


def test_an_id_belongs_to_its_key_on_every_replica(database: Database) -> None:
    here, there = ResponseIds(database), ResponseIds(database)
    here.remember("resp_1", 1, "openai", "first")
    assert there.target_of("resp_1", 1) == ("openai", "first")
    for response_id, key_id in (("resp_1", 2), ("resp_2", 1), ("resp_\0é", 1), ("x" * 1000, 1)):
        assert not known(there, response_id, key_id)


def test_the_same_id_of_two_servers_is_two_responses(database: Database) -> None:
    ids = ResponseIds(database)
    ids.remember("resp_1", 1, "openai", "first")
    ids.remember("resp_1", 2, "other", "second")
    assert ids.target_of("resp_1", 1) == ("openai", "first")
    ids.remember("resp_1", 1, "other", "third")
    assert ids.target_of("resp_1", 1) == ("other", "third")
    ids.forget("resp_1", 1)
    assert not known(ids, "resp_1", 1)
    assert known(ids, "resp_1", 2)


def test_an_id_is_forgotten_after_thirty_days(database: Database) -> None:
    ids = ResponseIds(database)
    ids.remember("old", 1, "openai", "first")
    ids.remember("new", 1, "openai", "first")
    assert KEPT_FOR == 30 * 86_400
    old = responses.update().where(responses.c.id == "old").values(expires_at=time.time() - 1)
    database.write(lambda connection: connection.execute(old))
    assert not known(ids, "old", 1)
    Retention(database, [expired()]).tick()
    rows = database.read(lambda connection: connection.execute(responses.select()).all())
    assert [row.id for row in rows] == ["new"]


def test_an_id_of_an_answer_outlives_a_database_that_is_away(
    empty_database: str, postgres: Postgres
) -> None:
    database = Database(empty_database.replace("://", "+psycopg://"))
    database.write(lambda connection: responses.create(connection))
    here, there = ResponseIds(database), ResponseIds(database)
    postgres.stop()
    here.remember("resp_1", 1, "openai", "first")
    assert here.target_of("resp_1", 1) == ("openai", "first")
    with pytest.raises(StoreUnavailable):
        there.target_of("resp_1", 1)
    with pytest.raises(StoreUnavailable):
        here.tick()
    postgres.start()
    wait_until(database.ping)
    here.tick()
    assert there.target_of("resp_1", 1) == ("openai", "first")
    database.engine.dispose()
