"""Tiles tell a change in the unit of their figure, and whether it is worse or better."""

from __future__ import annotations

import pytest

from webapp.dashboard.tiles import (
    BETTER,
    NO_EARLIER_DATA,
    UNCHANGED,
    WORSE,
    Tile,
    latency_tiles,
    money_tiles,
    not_split,
    traffic_tiles,
)
from webapp.metering.histogram import Latencies
from webapp.metering.latencies import LatencyFigures
from webapp.metering.overview import Figures
from webapp.metering.totals import UsageTotals

BUSY = {"requests": 1_000, "hits": 300, "misses": 700, "errors": 20, "refused_rate": 40}


def links(**changes: str | float | None) -> str:
    return f"requests?{changes}"


def figures(now: dict[str, int], before: dict[str, int]) -> Figures:
    return Figures(UsageTotals(**now), UsageTotals(**before), [], [], [])


def traffic(now: dict[str, int], before: dict[str, int]) -> dict[str, Tile]:
    return {tile.title: tile for tile in traffic_tiles(figures(now, before), links)}


def latency(now: float | None, before: float | None) -> Tile:
    """That of the p95."""
    compared = LatencyFigures(
        Latencies(p95=now), Latencies(p95=before), Latencies(), Latencies(), [], [], {}
    )
    [tile] = [one for one in latency_tiles(compared, links) if one.title == "Latency p95"]
    return tile


@pytest.mark.parametrize(
    ("title", "now", "change", "tone"),
    [
        # Of shares, the change is in percentage points, not in per cent of the share.
        ("Error rate", {"errors": 50}, "+3.0 pp", WORSE),
        ("Error rate", {"errors": 5}, "−1.5 pp", BETTER),
        ("Error rate", {"errors": 21}, "+0.1 pp", WORSE),
        ("Error rate", {"errors": 20}, UNCHANGED, ""),
        ("Cache hit rate", {"hits": 400, "misses": 600}, "+10.0 pp", BETTER),
        ("Cache hit rate", {"hits": 100, "misses": 900}, "−20.0 pp", WORSE),
        # More or less traffic is neither good nor bad.
        ("Requests", {"requests": 1_500}, "+50 %", ""),
        ("Requests", {"requests": 500}, "−50 %", ""),
        ("Requests", {"requests": 1_001}, UNCHANGED, ""),
        ("Refused", {"refused_rate": 80}, "+100 %", ""),
    ],
)
def test_a_change_is_told_in_the_unit_of_its_figure(
    title: str, now: dict[str, int], change: str, tone: str
) -> None:
    tile = traffic(BUSY | now, BUSY)[title]
    assert (tile.change, tile.tone) == (change, tone)


@pytest.mark.parametrize(("errors", "note"), [(0, "0 errors"), (1, "1 error"), (20, "20 errors")])
def test_errors_are_counted_in_words(errors: int, note: str) -> None:
    assert traffic(BUSY | {"errors": errors}, BUSY)["Error rate"].note == note


def test_the_cost_has_no_tone_and_more_cached_input_is_better() -> None:
    before = {"requests": 1, "cost_nano": 10, "input_tokens": 100, "cached_input_tokens": 50}
    now = before | {"cost_nano": 30, "cached_input_tokens": 60}
    tiles = {tile.title: tile for tile in money_tiles(figures(now, before), links, False)}
    assert (tiles["Cost"].change, tiles["Cost"].tone) == ("+200 %", "")
    cached = tiles["Cached input"]
    assert (cached.change, cached.tone) == ("+10.0 pp", BETTER)


@pytest.mark.parametrize(
    ("now", "before", "change", "tone"),
    [
        (104.9, 100.0, "+5 %", ""),
        (105.0, 100.0, "+5 %", WORSE),
        (95.1, 100.0, "−5 %", ""),
        (95.0, 100.0, "−5 %", BETTER),
        (300.0, 100.0, "+200 %", WORSE),
        (100.2, 100.0, UNCHANGED, ""),
        (100.0, None, NO_EARLIER_DATA, ""),
        (None, 100.0, "", ""),
    ],
)
def test_a_latency_is_worse_or_better_from_five_per_cent_on(
    now: float | None, before: float | None, change: str, tone: str
) -> None:
    tile = latency(now, before)
    assert (tile.change, tile.tone) == (change, tone)


def test_without_a_period_before_nothing_is_compared() -> None:
    alone = traffic(BUSY, {})
    assert {(tile.change, tile.tone) for tile in alone.values()} == {(NO_EARLIER_DATA, "")}
    none = traffic({}, BUSY)
    for title in ("Error rate", "Cache hit rate"):
        assert (none[title].value, none[title].change, none[title].tone) == ("–", "", "")
    first = traffic(BUSY, {"requests": 1, "misses": 1})
    assert (first["Refused"].change, first["Refused"].tone) == ("0 before", "")


def test_figures_that_are_not_counted_by_outcome_are_neither_shown_nor_compared() -> None:
    [tile] = not_split([latency(300.0, 100.0)])
    assert (tile.value, tile.change, tile.tone, tile.href) == ("–", "", "", None)
