"""Ranges: what they begin and end with, what is stored for them, and what of it is summed."""

from __future__ import annotations

import math
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import event, func, insert, select, update

from webapp.errors import StoreUnavailable, ValidationError
from webapp.metering import activity as activity_module
from webapp.metering.activity import DAY, HALF_HOUR, MINUTE, activity
from webapp.metering.histogram import Latencies, from_bytes, latencies_of, of_one, requests_of
from webapp.metering.overview import Overview
from webapp.metering.ranges import MAX_STEPS, RANGES, custom
from webapp.metering.selected import Selected
from webapp.metering.target_activity import expired as expired_targets
from webapp.metering.target_activity import target_activity
from webapp.metering.target_latency import ALL_TARGETS, target_latency
from webapp.metering.target_latency import expired as expired_latencies
from webapp.metering.totals import UsageTotals
from webapp.metering.traffic import Traffic
from webapp.metering.usage import usage
from webapp.storage.database import Database
from webapp.storage.retention import Retention

HOUR = 3_600


@pytest.mark.parametrize(
    ("ago", "length", "span", "step"),
    [
        (2 * HOUR, HOUR, MINUTE, MINUTE),
        (170 * 60, 170 * 60, MINUTE, 2 * MINUTE),
        (4 * HOUR, HOUR, HALF_HOUR, HALF_HOUR),
        (14 * DAY, 14 * DAY, HALF_HOUR, 6 * HALF_HOUR),
        (16 * DAY, HOUR, DAY, DAY),
        (300 * DAY, 300 * DAY, DAY, 3 * DAY),
    ],
)
def test_a_custom_range_has_the_finest_steps_that_are_stored(
    ago: int, length: int, span: int, step: int
) -> None:
    now = time.time()
    range_ = custom(now - ago, now - ago + length)
    assert (range_.span, range_.step) == (span, step)
    assert range_.steps <= MAX_STEPS
    # Rounded outwards to what is stored, and no further.
    assert range_.first <= now - ago < range_.first + span
    assert range_.until - span < now - ago + length <= range_.until
    assert range_.is_running is (ago == length)
    assert ("whole days" in range_.title) is (span == DAY)


@pytest.mark.parametrize(
    ("since", "until", "field"),
    [
        (10, 5, "until"), (5, 5, "until"), (-10, 5, "since"), (math.nan, 5, "since"),
        (5, math.nan, "until"), (5, math.inf, "until"), (5, 500 * DAY, "since"),
    ],
)  # fmt: skip
def test_a_nonsense_range_is_refused_by_its_field(since: float, until: float, field: str) -> None:
    with pytest.raises(ValidationError) as refused:
        custom(since, until)
    assert list(refused.value.details or {}) == [field]
    with pytest.raises(ValidationError):
        custom(time.time() + 60, time.time() + 120)


def test_the_end_of_a_range_is_at_the_latest_now() -> None:
    range_ = custom(time.time() - HOUR, time.time() + 30 * DAY)
    assert time.time() < range_.until <= time.time() + MINUTE


def test_yesterday_is_that_day_of_the_usage_report(database: Database) -> None:
    """A call that was reserved before midnight and settled after it belongs to the day before."""
    today = datetime.now(UTC).date()
    target = {"provider": "openai", "model": "m", "endpoint": "/chat", "key_id": 1}
    counted = {"calls": 1, "failed": 0, "estimated": 0, "unpriced": 0}
    tokens = {"input_tokens": 3, "cached_input_tokens": 1, "output_tokens": 4}
    row = target | counted | tokens | {"cost_nano": 700, "day": today - timedelta(days=1)}
    database.write(lambda connection: connection.execute(insert(usage), [row]))
    figures = Overview(database).figures(RANGES["yesterday"])
    assert (figures.now.cost_nano, figures.now.tokens, figures.now.calls) == (700, 7, 1)
    assert figures.now.cached_share == pytest.approx(1 / 3)
    assert [(one.model, one.total.cost_nano) for one in figures.targets] == [("m", 700)]
    # An earlier version stored nothing by half hour and target: the steps have no figures.
    assert [totals.cost_nano for _, totals in figures.steps] == [0] * 48
    midnight = int(time.time()) // DAY * DAY
    assert [at for at, _ in figures.steps] == list(range(midnight - DAY, midnight, HALF_HOUR))
    for selected in (Selected(model="m"), Selected({1}, "/chat", "openai", "m")):
        assert Overview(database).figures(RANGES["yesterday"], selected).now.cost_nano == 700
    assert Overview(database).figures(RANGES["yesterday"], Selected(model="n")).now.cost_nano == 0


def test_steps_that_are_merged_sum_up_to_the_range(database: Database) -> None:
    until = int(time.time()) // HALF_HOUR * HALF_HOUR
    range_ = custom(until - 10 * DAY, until)
    rows = [
        {"span": HALF_HOUR, "start": start, "key_id": 1, "endpoint": "/chat", "provider": "p",
         "model": "m", "requests": 1, "cost_nano": 5}
        for start in range(until - 11 * DAY, until + HALF_HOUR, HALF_HOUR)
    ]  # fmt: skip
    database.write(lambda connection: connection.execute(insert(target_activity), rows))
    figures = Overview(database).figures(range_, Selected(provider="p"))
    assert (figures.now.requests, figures.now.cost_nano) == (480, 2_400)
    assert [totals.requests for _, totals in figures.steps] == [4] * 120
    assert [totals.requests for totals in figures.targets[0].steps] == [4] * 120
    # Of the ten days before, only one was written.
    assert figures.before == UsageTotals()


def test_what_is_expired_is_deleted_by_its_span(database: Database) -> None:
    traffic = Traffic(database)
    target = ("openai", "m\0" * 300)
    traffic.count(1, UsageTotals(requests=1), 5.0, endpoint="/chat", target=target, first_token=2.0)
    traffic.flush()
    tables = (target_activity, target_latency)
    retention = [expired_targets(), expired_latencies()]
    for hours, left in ((0, {60, 1800, 86400}), (4, {1800, 86400}), (16 * 24, {86400})):
        for table in tables:
            older = update(table).values(start=table.c.start - hours * HOUR)
            database.write(lambda connection, older=older: connection.execute(older))
        Retention(database, retention).tick()
        for table in tables:
            spans = select(table.c.span, func.count()).group_by(table.c.span)
            found = database.read(lambda connection, spans=spans: connection.execute(spans).all())
            assert {span for span, _ in found} == left
    model = select(target_activity.c.model)
    assert database.read(lambda connection: connection.scalar(model)) == "m" * 256


def test_figures_are_those_of_keys_where_an_older_version_counted_no_targets(
    database: Database,
) -> None:
    """As in a rolling upgrade. The difference of totals and targets can be shown."""
    traffic = Traffic(database)
    traffic.count(1, UsageTotals(requests=1, hits=1), 5.0, endpoint="/chat", target=("p", "m"))
    traffic.flush()
    start = int(time.time()) // HALF_HOUR * HALF_HOUR
    older = update(activity).values(requests=activity.c.requests + 2, tokens=7, cost_nano=900)
    database.write(lambda connection: connection.execute(older))
    figures = Overview(database).figures(RANGES["24h"])
    assert (figures.now.requests, figures.now.tokens, figures.now.cost_nano) == (3, 7, 900)
    assert [(one.model, one.total.requests) for one in figures.targets] == [("m", 1)]
    assert figures.steps[-1][0] <= start
    assert Overview(database).latencies(RANGES["24h"]).now.p50 == pytest.approx(5, rel=0.02)


def test_a_count_that_could_not_be_written_is_written_later(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    traffic = Traffic(database)
    totals = UsageTotals(requests=1)
    traffic.count(1, totals, 5.0, endpoint="/chat", target=("p", "m"), first_token=2.0)
    with monkeypatch.context() as patched:
        patched.setattr(database, "_retry_at", math.inf)
        with pytest.raises(StoreUnavailable):
            traffic.flush()
    traffic.count(1, UsageTotals(requests=1), 5.0, endpoint="/chat", target=("p", "m"))
    traffic.flush()
    traffic.flush()
    overview = Overview(database)
    for name in ("1h", "24h", "7d"):
        [one] = overview.figures(RANGES[name], Selected({1})).targets
        assert (one.provider, one.model, one.total.requests) == ("p", "m", 2)
        assert [target[:3] for target in overview.latencies(RANGES[name]).targets] == [
            ("p", "m", 2)
        ]
        assert overview.latencies(RANGES[name]).first_token.p99 == pytest.approx(2, rel=0.025)


def test_the_counts_of_a_long_outage_are_written_in_several_transactions(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    traffic = Traffic(database)
    now = activity_module.this_minute()
    for minute in range(now - 2 * HOUR, now + MINUTE, MINUTE):
        monkeypatch.setattr(activity_module, "this_minute", lambda minute=minute: minute)
        traffic.count(1, UsageTotals(requests=1), 5.0, endpoint="/chat", target=("p", "m"))
    began: list[object] = []
    event.listen(database.engine, "begin", began.append)
    traffic.flush()
    assert len(began) == 2 * 9  # of counts and of latencies
    figures = Overview(database).figures(custom(now - 2 * HOUR, now + MINUTE))
    assert figures.now.requests == figures.targets[0].total.requests == 121


def test_writers_at_once_lose_no_latency(database: Database) -> None:
    def write(place: int) -> None:
        for number in range(10):
            target = ("p", f"m{(place + number) % 3}")
            traffic = Traffic(database)
            traffic.count(1, UsageTotals(requests=1), 5.0, target=target, first_token=2.0)
            traffic.count(1, UsageTotals(requests=1), 9.0, target=("p", "m1"))
            traffic.flush()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    for name in ("1h", "24h", "7d"):
        found = Overview(database).latencies(RANGES[name])
        assert sum(requests for *_, requests, _, _ in found.targets) == 80
    rows = select(target_latency).where(target_latency.c.provider == ALL_TARGETS)
    for row in database.read(lambda connection: connection.execute(rows).all()):
        assert requests_of(from_bytes(row.total)) == 80
        assert requests_of(from_bytes(row.first_token)) == 40


def test_percentiles_are_interpolated_inside_of_a_bucket() -> None:
    assert latencies_of(0) == Latencies(None, None, None)
    found = latencies_of(sum(map(of_one, range(1, 1_001))))
    assert found == pytest.approx((500, 950, 990), rel=0.005)
    # What is shorter than the first bucket or longer than the last is in these.
    assert latencies_of(of_one(0.0)).p50 == pytest.approx(0.1, rel=0.02)
    assert latencies_of(of_one(1e12)).p50 == pytest.approx(6.28e7, rel=0.02)
    # Three that took 2.7 s in a hundred, the others 1 s: p95 and p99 differ.
    many = latencies_of(97 * of_one(1_000) + 3 * of_one(2_700))
    assert many.p95 == pytest.approx(1_000, rel=0.02)
    assert many.p99 == pytest.approx(2_700, rel=0.02)
