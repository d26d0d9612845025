"""The request log: what is found in it, what is forgotten, what happens without a database."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from sqlalchemy import select, update

from tests.conftest import MakeWeir
from tests.support.administrator import SETTINGS
from tests.support.books import Books
from tests.support.servers import Postgres, Weir, wait_until
from webapp.errors import all_errors
from webapp.metering import request_log, request_search, target_latency, traffic
from webapp.metering.activity import activity, activity_latency
from webapp.metering.activity import expired as activity_expired
from webapp.metering.histogram import of_one, to_bytes
from webapp.metering.request_export import csv_of
from webapp.metering.request_log import LoggedRequest, RequestLog, requests
from webapp.metering.request_outcome import Outcome, outcome_of
from webapp.metering.request_search import Count, Page, RequestSearch, Wanted
from webapp.metering.totals import UsageTotals
from webapp.metering.traffic import Traffic
from webapp.storage import migrations
from webapp.storage.database import Database
from webapp.storage.retention import Retention


@pytest.fixture
def database(tmp_path: Path) -> Database:
    database = Database(f"sqlite:///{tmp_path}/weir.db")
    migrations.upgrade(database)
    return database


def logged(number: int, **changes: object) -> LoggedRequest:
    facts: dict[str, object] = {
        "at": time.time() - 1000 + number, "request_id": f"request-{number}", "key_id": 1,
        "endpoint": "/chat", "status": 200, "cache": "MISS", "provider": "openai", "model": "m",
        "tokens": 7, "cost_nano": 11_000, "milliseconds": 12.5, "error": None,
    }  # fmt: skip
    return LoggedRequest(**facts | changes)  # type: ignore[arg-type]


def test_a_search_looks_through_so_many_rows_and_says_how_far(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_search, "MAX_ROWS_SCANNED", 100)
    log, search = RequestLog(database, 30), RequestSearch(database)
    for number in range(250):
        log.add(logged(number, status=404 if number == 3 else 200))
    log.flush()
    first = search.page(Wanted(status=404))
    assert (first.rows, first.older, first.looked_back_to is not None) == ([], 151, True)
    second = search.page(Wanted(status=404), before=first.older)
    assert (second.rows, second.older) == ([], 51)
    third = search.page(Wanted(status=404), before=second.older)
    assert [row.request_id for row in third.rows] == ["request-3"]
    assert (third.older, third.looked_back_to) == (None, None)


def test_matches_are_counted_as_far_as_is_searched(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_search, "MAX_ROWS_SCANNED", 100)
    monkeypatch.setattr(request_search, "MAX_COUNTED", 70)
    log, search = RequestLog(database, 30), RequestSearch(database)
    for number in range(250):
        log.add(logged(number, key_id=number % 2, status=404 if number % 10 == 3 else 200))
    log.flush()
    assert search.count(Wanted(status=404)) == Count(10, exact=False)
    assert search.count(Wanted(key_ids={1}, status=404, since=time.time() - 780)) == Count(3, True)
    assert search.count(Wanted(key_ids={1})) == Count(70, exact=False)
    assert search.count(Wanted(key_ids={2})) == Count(0, exact=True)
    assert search.count(Wanted()) == Count(70, exact=False)


def test_newer_pages_end_at_the_newest(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_search, "MAX_ROWS_SCANNED", 100)
    log, search = RequestLog(database, 30), RequestSearch(database)
    for number in range(1, 251):
        log.add(logged(number, status=404 if number in {3, 20, 21, 22, 240} else 200))
    log.flush()
    wanted = Wanted(status=404)

    def ids(page: Page) -> list[int]:
        return [row.id for row in page.rows]

    newer = search.page(wanted, after=3, count=2)
    assert (ids(newer), newer.older, newer.newer) == ([21, 20], 20, 21)
    newer = search.page(wanted, after=21, count=2)
    assert (ids(newer), newer.newer) == ([22], 121), "so far it has searched"
    newest = search.page(wanted, after=200, count=2)
    assert (ids(newest), newest.newer) == ([240], None)
    assert newest == search.page(wanted, count=2)


def test_every_request_has_one_outcome(database: Database) -> None:
    log = RequestLog(database, 30)
    ends = [(status, None) for status in (200, 202, 404, 429, 500, 503)]
    ends += [(status, e.__name__) for e in all_errors() for status in (200, e.status)]
    for number, (status, error) in enumerate(ends):
        log.add(logged(number, status=status, error=error))
    log.flush()
    found: dict[str, Outcome] = {}
    for outcome in Outcome:
        for row in RequestSearch(database).all(Wanted(outcomes=[outcome]), 1000):
            assert row.request_id not in found
            found[row.request_id] = outcome_of(row.status, row.error)
            assert found[row.request_id] is outcome
    assert len(found) == len(ends)
    assert outcome_of(200, "ProviderFailed") is Outcome.ERROR, "a stream that failed"
    assert outcome_of(429, "BudgetExceeded") is Outcome.REFUSED
    assert outcome_of(499, "ClientHungUp") is Outcome.INVALID


def test_an_export_says_where_it_was_cut(database: Database) -> None:
    log = RequestLog(database, 30)
    for number in range(5):
        log.add(logged(number))
    log.flush()

    def export(limit: int) -> list[str]:
        rows = RequestSearch(database).all(Wanted(), limit + 1)
        return "".join(csv_of(rows, {1: "shop"}, limit)).splitlines()

    assert len(export(5)) == 6
    cut = export(4)
    assert (len(cut), cut[-1]) == (
        6, "Cut after 4 requests; there are more. Select a shorter period."
    )  # fmt: skip


def test_a_key_s_requests_are_found_without_a_search(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_search, "MAX_ROWS_SCANNED", 10)
    log = RequestLog(database, 30)
    log.add(logged(0, key_id=2))
    for number in range(1, 50):
        log.add(logged(number))
    log.flush()
    page = RequestSearch(database).page(Wanted(key_ids={2}))
    assert ([row.request_id for row in page.rows], page.older) == (["request-0"], None)


def test_many_keys_are_searched_only_so_far(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_search, "MAX_ROWS_SCANNED", 10)
    log = RequestLog(database, 30)
    log.add(logged(0, key_id=2))
    for number in range(1, 50):
        log.add(logged(number))
    log.flush()
    page = RequestSearch(database).page(Wanted(key_ids={2, 3}))
    assert (page.rows, page.older, page.looked_back_to is not None) == ([], 41, True)


def test_a_time_is_found_by_its_index(database: Database) -> None:
    log = RequestLog(database, 30)
    began = time.time() - 1000
    for number in range(100):
        log.add(logged(number))
    log.flush()
    page = RequestSearch(database).page(Wanted(since=began + 9.5, until=began + 14.5))
    assert [row.request_id for row in page.rows] == [f"request-{n}" for n in range(14, 9, -1)]


def test_a_minute_of_an_outage_has_the_requests_of_all_workers(database: Database) -> None:
    began = time.time() - 1000
    for _worker in range(2):
        log = RequestLog(database, 30)
        for number in range(300):
            log.add(logged(number, at=began + number))
        log.flush()
    minute, search = Wanted(since=began + 100, until=began + 160), RequestSearch(database)
    assert len(search.page(minute, count=200).rows) == 120
    assert search.count(minute) == Count(120, True)


def test_old_requests_and_activity_are_forgotten(database: Database) -> None:
    log, counted = RequestLog(database, 30), Traffic(database)
    log.add(logged(1, at=time.time() - 31 * 86_400))
    log.add(logged(2, at=time.time() - 29 * 86_400))
    log.flush()
    counted.count(1, UsageTotals(requests=1), 5.0)
    counted.flush()
    spans = select(activity.c.span).order_by(activity.c.span)
    assert database.read(lambda c: c.execute(spans).scalars().all()) == [60, 1800]
    for table in (activity, activity_latency):
        older = update(table).values(start=table.c.start - 4 * 3600)
        database.write(lambda connection, older=older: connection.execute(older))
    Retention(database, [request_log.expired(30), *activity_expired()]).tick()
    kept = database.read(lambda c: c.execute(select(requests.c.request_id)).scalars().all())
    assert kept == ["request-2"]
    assert database.read(lambda c: c.execute(spans).scalars().all()) == [1800]


def test_latencies_that_are_refused_are_written_later_and_counts_only_once(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = Traffic(database)
    counted.count(1, UsageTotals(requests=1), 5.0, target=("openai", "m"), first_token=2.0)

    def refuse(*_: object) -> None:
        raise RuntimeError

    with monkeypatch.context() as patched:
        patched.setattr(traffic, "_add_latencies", refuse)
        with pytest.raises(RuntimeError):
            counted.flush()
    counted.flush()
    assert counted.counts(1).requests == 1
    table = target_latency.target_latency
    for column, stored in (
        (traffic.latency.c.requests, [1]),
        # Of the model and of all, by minute, half hour and day.
        (table.c.total, [to_bytes(of_one(5.0))] * 6),
        (table.c.first_token, [to_bytes(of_one(2.0))] * 6),
    ):
        found = database.read(
            lambda connection, column=column: connection.scalars(select(column)).all()
        )
        assert found == stored


def test_latencies_of_models_are_forgotten_when_no_range_reaches_them(database: Database) -> None:
    counted, span = Traffic(database), target_latency.target_latency.c.span
    counted.count(1, UsageTotals(requests=1), 5.0, target=("openai", "m"))
    counted.flush()

    def kept() -> list[int]:
        Retention(database, [target_latency.expired()]).tick()
        query = select(span).distinct().order_by(span)
        return list(database.read(lambda connection: connection.execute(query).scalars().all()))

    for days, left in ((0, [60, 1800, 86_400]), (20, [86_400]), (770, [86_400]), (20, [])):
        table = target_latency.target_latency
        older = update(table).values(start=table.c.start - days * 86_400)
        database.write(lambda connection, older=older: connection.execute(older))
        assert kept() == left


@pytest.mark.parametrize("store", ["sqlite", "postgresql"])
def test_texts_are_written_whatever_a_provider_sent(
    tmp_path: Path, fresh_database: str, store: str
) -> None:
    urls = {
        "sqlite": f"sqlite:///{tmp_path}/other.db",
        "postgresql": fresh_database.replace("postgresql://", "postgresql+psycopg://"),
    }
    database = Database(urls[store])
    migrations.upgrade(database)
    log, search = RequestLog(database, 30), RequestSearch(database)
    log.add(logged(2, request_id="request-2x"))
    log.add(
        logged(
            1,
            client="a\x7f\nb" + "c" * 300,
            model="m" * 300,
            prompt="NUL \0, half a pair \ud800",
            answer="x" * 30_000,
        )
    )
    log.flush()
    [row] = search.find("request-1", None)
    assert (row.model, row.prompt) == ("m" * 256, "NUL , half a pair ?")
    assert len(row.answer) == 20_000
    assert (row.client[:3], len(row.client)) == ("abc", 200)
    assert [row.request_id for row in search.find_by_prefix("request-", None)] == [
        "request-1", "request-2x",
    ]  # fmt: skip
    assert [row.request_id for row in search.find_by_prefix("request-2", {1})] == ["request-2x"]
    assert search.find_by_prefix("request-2", {2}) == []
    database.engine.dispose()


def test_none_are_kept_where_the_retention_is_zero(database: Database) -> None:
    log = RequestLog(database, 0)
    log.add(logged(1))
    log.flush()
    assert RequestSearch(database).page(Wanted()).rows == []


def test_a_restart_of_postgresql_loses_no_request(
    start_weir: MakeWeir, fresh_database: str, postgres: Postgres
) -> None:
    weir = start_weir(**SETTINGS, DATABASE_URL=fresh_database)

    def ask(weir: Weir) -> str:
        answer = weir.post("/chat", key="prod_key_456", json={"message": "the same"})
        assert answer.status_code == 200
        return answer.headers["X-Request-ID"]

    asked = [ask(weir)]
    postgres.stop()
    asked += [ask(weir) for _ in range(5)]  # from the cache
    postgres.start()
    wait_until(
        lambda: (
            {row["request_id"] for row in Books(weir).rows("SELECT request_id FROM requests")}
            == set(asked)
        ),
        15,
    )


def test_filters_offer_the_names_that_are_used_most(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_search, "MAX_NAMES", 2)
    log = RequestLog(database, 30)
    for number, model in enumerate(["b", "b", "a", "once", "a", None]):
        log.add(logged(number, model=model, asked_model=model))
    log.flush()
    names = RequestSearch(database).names(None)
    assert (names.key_ids, names.endpoints, names.providers) == ([1], ["/chat"], ["openai"])
    assert names.models == ["a", "b"]
