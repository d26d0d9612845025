"""What the database refuses to write: it is tried again, holds up nothing, and is told once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import text

from tests.conftest import MakeWeir
from tests.support.books import PRICES, Books
from tests.support.servers import Provider, Weir, wait_until

KEY = "test_key_0123456789"
OPENAI = "/v1/chat/completions"
# One statement of the ledger fails while the trigger is there.
REFUSE = {
    "sqlite": """
        CREATE TRIGGER refuse BEFORE {event} ON ledger WHEN {condition}
        BEGIN SELECT RAISE(ABORT, 'refused by a trigger'); END
    """,
    "postgresql": """
        CREATE FUNCTION refuse() RETURNS trigger AS $$
        BEGIN RAISE EXCEPTION 'refused by a trigger' USING ERRCODE = '{code}'; END
        $$ LANGUAGE plpgsql;
        CREATE TRIGGER refuse BEFORE {event} ON ledger FOR EACH ROW WHEN ({condition})
        EXECUTE FUNCTION refuse()
    """,
}
ALLOW = {
    "sqlite": "DROP TRIGGER IF EXISTS refuse",
    "postgresql": "DROP FUNCTION IF EXISTS refuse CASCADE",
}
NO_PERMISSION, OUT_OF_RANGE = "42501", "22003"


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def shared_weir(
    request: pytest.FixtureRequest,
    start_shared_weir: MakeWeir,
    provider: Provider,
    fresh_shared_database: str,
) -> Weir:
    database = {"DATABASE_URL": fresh_shared_database} if request.param == "postgresql" else {}
    return start_shared_weir(
        **database, API_KEYS=f"test:enterprise:{KEY}", TIERS="enterprise=99999/minute",
        TIER_ENTERPRISE="usd_per_day=100", MODEL_PRICES=PRICES, OPENAI_BASE_URL=provider.base_url,
    )  # fmt: skip


@pytest.fixture
def weir(shared_weir: Weir) -> Weir:
    """A test that has ended it is the last one, except if the order changes."""
    return shared_weir.start()


@pytest.fixture
def books(weir: Weir) -> Books:
    return Books(weir)


@pytest.fixture
def refuse(books: Books) -> Iterator[Callable[..., None]]:
    """`refuse(event, condition)` lets these writes fail, until `refuse()` or the test's end."""
    dialect = books.engine.dialect.name

    def execute(event: str = "", condition: str = "", code: str = NO_PERMISSION) -> None:
        statement = REFUSE[dialect].format(event=event, condition=condition, code=code)
        with books.engine.begin() as connection:
            connection.execute(text(ALLOW[dialect]))
            if event:
                connection.execute(text(statement))
        books.engine.dispose()

    yield execute
    execute()


def ask(weir: Weir, model: str) -> int:
    body = {"model": model, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 50}
    return weir.post(OPENAI, key=KEY, json=body).status_code


def states(books: Books, prefix: str) -> dict[str, list[int]]:
    """By state, the ids of the calls of these models."""
    found: dict[str, list[int]] = {}
    for row in books.rows(f"SELECT id, state FROM ledger WHERE model LIKE '{prefix}-%'"):
        found.setdefault(row["state"], []).append(row["id"])
    return found


def told_of(weir: Weir, call_id: int) -> list[str]:
    """The messages of the log that name a call."""
    lines = [line for line in weir.logs() if str(call_id) in str(line.get("message"))]
    return [line["level"] for line in lines]


def after_some_ticks(weir: Weir, books: Books) -> None:
    beat = "SELECT max(beat) AS beat FROM workers"
    before = books.rows(beat)[0]["beat"]
    wait_until(lambda: books.rows(beat)[0]["beat"] >= before + 3, pause=0.1)


def test_settlements_wait_until_the_database_takes_them(
    weir: Weir, books: Books, provider: Provider, refuse: Callable[..., None]
) -> None:
    refuse("UPDATE", "NEW.model LIKE 'waits-%'")
    with ThreadPoolExecutor(5) as pool:
        assert set(pool.map(lambda n: ask(weir, f"waits-{n}"), range(20))) == {200}
    after_some_ticks(weir, books)
    [ids] = states(books, "waits").values()
    assert len(ids) == 20
    refuse()
    wait_until(lambda: set(states(books, "waits")) == {"settled"}, what="their settlement")
    for call_id in ids:
        assert told_of(weir, call_id).count("error") <= 1, "each is told once"
    books.check_sums(books.settled(20))


def test_one_call_that_cannot_be_settled_holds_up_no_other(
    weir: Weir, books: Books, provider: Provider, refuse: Callable[..., None]
) -> None:
    refuse("UPDATE", "NEW.model = 'among-bad'")
    with ThreadPoolExecutor(5) as pool:
        models = ["among-bad", *(f"among-{n}" for n in range(10))]
        assert set(pool.map(lambda model: ask(weir, model), models)) == {200}
    wait_until(lambda: len(states(books, "among").get("settled", [])) == 10)
    after_some_ticks(weir, books)
    [bad] = states(books, "among")["reserved"]
    assert told_of(weir, bad) == ["error"]
    assert ask(weir, "among-later") == 200
    wait_until(lambda: len(states(books, "among")["settled"]) == 11)
    refuse()
    wait_until(lambda: set(states(books, "among")) == {"settled"})
    wait_until(lambda: told_of(weir, bad) == ["error", "warning"], what="the news that it is over")


def test_calls_that_cannot_be_reserved_may_be_tried_again(
    weir: Weir, books: Books, provider: Provider, refuse: Callable[..., None]
) -> None:
    refuse("INSERT", "NEW.model LIKE 'unreserved-%'")
    assert ask(weir, "unreserved-1") == 503
    assert ask(weir, "reserved-1") == 200
    assert [call["body"]["model"] for call in provider.completions()] == ["reserved-1"]
    refuse()
    assert ask(weir, "unreserved-1") == 200
    books.check_sums(books.settled(1))


def test_what_no_try_can_write_is_booked_at_its_ceiling(
    weir: Weir, books: Books, provider: Provider, refuse: Callable[..., None]
) -> None:
    if books.engine.dialect.name == "sqlite":
        pytest.skip("SQLite's triggers know one kind of error")
    refuse("UPDATE", "NEW.model = 'faulty-1' AND NEW.state = 'settled'", OUT_OF_RANGE)
    assert ask(weir, "faulty-1") == 200

    def booked() -> list[dict[str, Any]]:
        return books.rows("SELECT * FROM ledger WHERE model = 'faulty-1' AND state = 'lost'")

    [row] = wait_until(booked)
    assert (row["cost_nano"], row["error"]) == (row["ceiling_nano"], "InternalError")
    assert told_of(weir, row["id"]) == ["error"]
    books.check_sums(books.settled(1))


def test_settlements_are_written_before_a_worker_ends(
    weir: Weir, books: Books, provider: Provider, refuse: Callable[..., None]
) -> None:
    """The worker's last tries find the database willing again."""
    refuse("UPDATE", "NEW.model = 'last-1'")
    assert ask(weir, "last-1") == 200
    after_some_ticks(weir, books)
    refuse()
    assert weir.terminate() == 0
    assert set(states(books, "last")) == {"settled"}
