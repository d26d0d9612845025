"""Figures of all keys are the same whether steps are rolled up or not, at any time."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from threading import Event
from typing import Any

import pytest
from sqlalchemy import Connection, Table, func, insert, select, text

from tests.support.servers import wait_until
from webapp.llm.calls import CallState, Settlement, Usage
from webapp.metering import activity as activity_module
from webapp.metering.activity import DAY, HALF_HOUR, MINUTE, RETENTION, activity
from webapp.metering.calls import ledger
from webapp.metering.counters import sums
from webapp.metering.overview import Figures, Overview
from webapp.metering.ranges import RANGES, Range, Window, custom
from webapp.metering.rollup_writer import RollupWriter, roll_up
from webapp.metering.rollups import DELAY, expired, rollups
from webapp.metering.selected import Selected
from webapp.metering.settlements import PendingSettlement, settle
from webapp.metering.target_activity import target_activity
from webapp.metering.totals import COUNTED, UsageTotals
from webapp.metering.traffic import Traffic, traffic
from webapp.metering.usage import usage
from webapp.storage.database import Database
from webapp.storage.retention import Retention

HOUR = 3_600
TABLES = (activity, target_activity, traffic, usage)
SELECTIONS = (
    Selected(),
    Selected(provider="openai"),
    Selected(provider="openai", model="m1"),
    Selected(endpoint="/chat"),
    Selected({2}),
)


def ranges() -> list[Range]:
    """The named ones, and two whose steps have several spans."""
    now = time.time()
    return [*RANGES.values(), custom(now - 10 * DAY, now), custom(now - 170 * 60, now - 5 * 60)]


def fill(database: Database) -> None:
    """Counters of three keys and models, in some of the steps that are stored."""
    numbers = random.Random(5)
    now = int(time.time())
    rows: dict[str, list[dict[str, Any]]] = {table.name: [] for table in TABLES}
    for span, seconds in {**RETENTION, DAY: 70 * DAY}.items():
        newest = now // span * span
        recent = range(newest - 8 * span, newest + span, span)
        for start in {*recent, *_some(numbers, newest, span, seconds)}:
            for key_id in (1, 2, 3):
                _fill_step(rows, numbers, span, start, key_id)

    def work(connection: Connection) -> None:
        for table in TABLES:
            connection.execute(insert(table), rows[table.name])

    database.write(work)


def _some(numbers: random.Random, newest: int, span: int, seconds: int) -> list[int]:
    count = seconds // span - 1
    return [newest - span * number for number in numbers.sample(range(count), min(40, count))]


def _fill_step(
    rows: dict[str, list[dict[str, Any]]],
    numbers: random.Random,
    span: int,
    start: int,
    key_id: int,
) -> None:
    day = datetime.fromtimestamp(start, UTC).date()
    step = {"span": span, "start": start, "key_id": key_id}
    some = partial(numbers.randrange, 1_000)
    of_key = {name: some() for name in COUNTED}
    if span == DAY:
        rows["traffic"].append(
            {"day": day, "key_id": key_id, "tokens": 0, "saved_tokens": 0} | of_key
        )
    else:
        rows["activity"].append(step | of_key | {"tokens": some(), "cost_nano": some()})
    for provider, model in (("openai", "m1"), ("openai", "m2"), ("", "")):
        target = {"provider": provider, "model": model, "endpoint": "/chat"}
        tokens = {name: some() for name in ("input_tokens", "cached_input_tokens", "output_tokens")}
        called = tokens | {"calls": some(), "cost_nano": some()}
        counted = {name: some() for name in COUNTED}
        rows["target_activity"].append(
            step | target | counted | (called if span != DAY else dict.fromkeys(called, 0))
        )
        if span == DAY and provider:
            of_day = {"day": day, "key_id": key_id, "failed": some(), "estimated": 0, "unpriced": 0}
            rows["usage"].append(target | of_day | called)


def roll_all_up(database: Database) -> None:
    writer = RollupWriter(database)
    while not writer.tick():
        pass


def figures(database: Database) -> list[Figures]:
    return [
        Overview(database).figures(range_, selected)
        for range_ in ranges()
        for selected in SELECTIONS
    ]


def count(database: Database, condition: Any = True) -> int:
    query = select(func.count()).select_from(rollups).where(condition)
    return int(database.read(lambda connection: connection.execute(query).scalar_one()))


def delete(database: Database, table: Table) -> None:
    database.write(lambda connection: connection.execute(table.delete()))


def test_figures_are_the_same_when_steps_are_rolled_up(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = time.time() // DAY * DAY + 10.3 * HOUR
    monkeypatch.setattr(time, "time", lambda: stopped)
    fill(database)
    before = figures(database)
    assert all(one.now.requests for one in before)
    roll_all_up(database)
    assert count(database) > 100
    assert figures(database) == before
    # All steps that are over come from the rollups alone.
    for table in TABLES:
        delete(database, table)
    yesterday = Overview(database).figures(RANGES["yesterday"])
    expected = before[list(RANGES).index("yesterday") * len(SELECTIONS)]
    assert yesterday == replace(expected, top_keys=[])


def test_what_is_counted_late_forgets_the_rollups_of_its_steps(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the counts of an outage of the database are."""
    fill(database)
    roll_all_up(database)
    before = Overview(database).figures(RANGES["yesterday"]).now.requests
    late = int(time.time()) // DAY * DAY - HOUR
    monkeypatch.setattr(activity_module, "this_minute", lambda: late)
    counted = Traffic(database)
    counted.count(1, UsageTotals(requests=1), 5.0, endpoint="/chat", target=("openai", "m1"))
    counted.flush()
    assert count(database, rollups.c.start == late) == 0
    for _ in range(2):
        assert Overview(database).figures(RANGES["yesterday"]).now.requests == before + 1
        roll_all_up(database)
    assert count(database, rollups.c.start == late) > 0
    # What is counted in this minute forgets nothing.
    stored = count(database)
    monkeypatch.undo()
    counted.count(1, UsageTotals(requests=1), 5.0, endpoint="/chat", target=("openai", "m1"))
    counted.flush()
    assert count(database) == stored


def test_a_call_that_is_settled_on_a_later_day_is_in_the_figures_of_its_day(
    database: Database,
) -> None:
    fill(database)
    roll_all_up(database)
    midnight = int(time.time()) // DAY * DAY
    before = Overview(database).figures(RANGES["7d"]).steps[-4][1].cost_nano
    row = dict.fromkeys(("ceiling_input_tokens", "ceiling_output_tokens", "input_tokens"), 0)
    row |= {"cached_input_tokens": 0, "output_tokens": 0, "estimated": False, "attempt": 1}
    row |= {"id": 1, "worker_id": 1, "key_id": 1, "request_id": "r", "endpoint": "/chat"}
    row |= {"route": "m1", "provider": "openai", "model": "m1", "state": CallState.RESERVED}
    at = midnight - 3 * DAY
    row |= {"day": datetime.fromtimestamp(at, UTC).date(), "reserved_at": at, "ceiling_nano": 9}
    pending = PendingSettlement(1, Settlement(CallState.SETTLED, Usage(1, 1), 7))

    def work(connection: Connection) -> None:
        connection.execute(insert(ledger), [row])
        settle(connection, [pending])

    database.write(work)
    for _ in range(2):
        assert Overview(database).figures(RANGES["7d"]).steps[-4][1].cost_nano == before + 7
        roll_all_up(database)


def test_what_an_older_version_settles_on_a_later_day_is_found(database: Database) -> None:
    fill(database)
    writer = RollupWriter(database)
    roll_all_up(database)
    before = Overview(database).figures(RANGES["30d"]).now.cost_nano
    earlier = datetime.fromtimestamp(time.time() - 2 * DAY, UTC).date()
    change = usage.update().where(usage.c.day == earlier, usage.c.key_id == 1)
    change = change.where(usage.c.model == "m1").values(cost_nano=usage.c.cost_nano + 5)
    database.write(lambda connection: connection.execute(change))
    assert Overview(database).figures(RANGES["30d"]).now.cost_nano == before
    writer.tick()
    assert Overview(database).figures(RANGES["30d"]).now.cost_nano == before + 5


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_who_counts_and_who_rolls_up_at_once_miss_nothing(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = int(time.time()) // HALF_HOUR * HALF_HOUR - 4 * HALF_HOUR
    window = Window(start, start + HALF_HOUR, HALF_HOUR, HALF_HOUR)
    monkeypatch.setattr(activity_module, "this_minute", lambda: start)
    going_on, go_on = Event(), Event()

    def requests() -> int:
        found = database.read(lambda connection: sums(connection, window, Selected()))
        return found[()].requests

    def counting() -> None:
        counted = Traffic(database)
        counted.count(1, UsageTotals(requests=1), None, target=("openai", "m1"))
        counted.flush()

    def held(work: Callable[[Connection], object], connection: Connection) -> None:
        work(connection)
        going_on.set()
        assert go_on.wait(20)

    with ThreadPoolExecutor() as pool:
        # Rolled up in a transaction that has not ended: counts wait for it, and forget it.
        rolling = pool.submit(database.write, partial(held, partial(roll_up, window)))
        assert going_on.wait(20)
        flushed = pool.submit(counting)
        wait_until(partial(waits_for_a_lock, database), 10, "the counting to wait")
        go_on.set()
        rolling.result(20)
        flushed.result(20)
    assert (requests(), count(database)) == (1, 0)
    going_on.clear()
    go_on.clear()
    with ThreadPoolExecutor() as pool, monkeypatch.context() as patched:
        # Counted in a transaction that has not ended: nothing is rolled up.
        written = database.write
        patched.setattr(database, "write", lambda work: written(partial(held, work)))
        flushed = pool.submit(counting)
        assert going_on.wait(20)
        written(partial(roll_up, window))
        assert count(database) == 0
        go_on.set()
        flushed.result(20)
    database.write(partial(roll_up, window))
    assert (requests(), count(database)) == (2, 2)


def waits_for_a_lock(database: Database) -> bool:
    query = text("SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'advisory'")
    return bool(database.read(lambda connection: connection.execute(query).scalar_one()))


def test_a_step_is_rolled_up_some_time_after_its_end_and_once(database: Database) -> None:
    fill(database)
    roll_all_up(database)
    newest = select(rollups.c.span, func.max(rollups.c.start)).group_by(rollups.c.span)
    found = dict(database.read(lambda connection: connection.execute(newest).all()))
    assert set(found) == {MINUTE, HALF_HOUR, DAY}
    for span, start in found.items():
        assert DELAY <= time.time() - start - span < DELAY + span + 5
    stored = count(database)
    window = Window(found[DAY], found[DAY] + DAY, DAY, DAY)
    database.write(partial(roll_up, window))
    assert count(database) == stored


def test_nothing_is_rolled_up_from_before_the_first_request(database: Database) -> None:
    roll_all_up(database)
    assert count(database) == 0
    start = int(time.time()) // MINUTE * MINUTE - 5 * MINUTE
    row = {"span": MINUTE, "start": start, "key_id": 1, **dict.fromkeys(COUNTED, 1)}
    row |= {"tokens": 0, "cost_nano": 0}
    database.write(lambda connection: connection.execute(insert(activity), [row]))
    roll_all_up(database)
    starts = database.read(lambda connection: connection.execute(select(rollups.c.start)).all())
    assert min(starts) == (start,)
    assert len(starts) == count(database) <= 4


def test_rollups_are_deleted_with_what_they_are_of(database: Database) -> None:
    now = int(time.time())
    ages = {MINUTE: 3 * HOUR, HALF_HOUR: 15 * DAY, DAY: 800 * DAY}
    starts = {
        span: [now // span * span - age + shift for shift in (-2 * span, 2 * span)]
        for span, age in ages.items()
    }
    rows = [
        {"span": span, "start": start, "provider": "p", "model": "m"}
        for span, of_span in starts.items()
        for start in of_span
    ]
    database.write(lambda connection: connection.execute(insert(rollups), rows))
    Retention(database, [expired()]).tick()
    kept = select(rollups.c.span, rollups.c.start)
    found = dict(database.read(lambda connection: connection.execute(kept).all()))
    assert found == {span: of_span[-1] for span, of_span in starts.items()}
