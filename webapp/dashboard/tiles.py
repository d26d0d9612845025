"""The tiles of the overview: a figure, its change against the period before, where it leads."""

from __future__ import annotations

from dataclasses import dataclass

from webapp.dashboard.charts import Links
from webapp.dashboard.formatting import NOTHING, compact, duration, nano, percent
from webapp.metering.latencies import LatencyFigures
from webapp.metering.overview import Figures
from webapp.metering.request_search import CACHED
from webapp.metering.totals import REFUSALS, UsageTotals

NOT_SPLIT = "not split by outcome"
NO_EARLIER_DATA, UNCHANGED = "no earlier data", "unchanged"
# What a change means where more of a figure is worse or better; traffic and cost are neither.
WORSE, BETTER = "worse", "better"
OPPOSITE = {WORSE: BETTER, BETTER: WORSE}
NOTEWORTHY = 5  # per cent; a smaller change of a latency is chance


@dataclass(frozen=True, slots=True)
class Tile:
    """`tone` says what the change means: worse, better or neither."""

    title: str
    value: str
    change: str = ""
    tone: str = ""
    note: str = ""
    href: str | None = None


def traffic_tiles(figures: Figures, links: Links) -> list[Tile]:
    now, before = figures.now, figures.before
    known = bool(before.requests or before.refused)
    return [
        Tile(
            "Requests", compact(now.requests), _amount(now.requests, before.requests, known),
            note="without refused ones" if now.refused else "", href=links(),
        ),
        Tile(
            "Cache hit rate", percent(now.hit_rate), *_rate(now.hit_rate, before.hit_rate, BETTER),
            note=f"{compact(now.hits)} from cache", href=links(cache=CACHED),
        ),
        Tile(
            "Error rate", percent(now.error_rate), *_rate(now.error_rate, before.error_rate, WORSE),
            note=f"{compact(now.errors)} error{'' if now.errors == 1 else 's'}",
            href=links(outcome="error"),
        ),
        Tile(
            "Refused", compact(now.refused), _amount(now.refused, before.refused, known),
            note=refused_kinds(now), href=links(outcome="refused"),
        ),
    ]  # fmt: skip


def money_tiles(figures: Figures, links: Links, any_unpriced: bool) -> list[Tile]:
    now, before = figures.now, figures.before
    known = bool(before.requests)
    return [
        Tile(
            "Cost", nano(now.cost_nano), _amount(now.cost_nano, before.cost_nano, known),
            note="without unpriced models" if any_unpriced else "", href=links(),
        ),
        Tile(
            "Cache savings", nano(now.saved_nano),
            _amount(now.saved_nano, before.saved_nano, known), note="incl. coalesced",
        ),
        Tile(
            "Billed tokens", compact(now.tokens), _amount(now.tokens, before.tokens, known),
            note=f"{compact(now.input_tokens)} in, {compact(now.output_tokens)} out",
            href=links(),
        ),
        Tile(
            "Cached input", percent(now.cached_share),
            *_rate(now.cached_share, before.cached_share, BETTER),
            note=f"{compact(now.cached_input_tokens)} tokens", href=links(),
        ),
    ]  # fmt: skip


def latency_tiles(latencies: LatencyFigures, links: Links) -> list[Tile]:
    first_token, first_token_before = latencies.first_token, latencies.first_token_before
    return [
        _latency("Latency p50", latencies.now.p50, latencies.before.p50, links()),
        _latency("Latency p95", latencies.now.p95, latencies.before.p95, links()),
        _latency("Latency p99", latencies.now.p99, latencies.before.p99, links()),
        _latency("First token p50", first_token.p50, first_token_before.p50, links()),
        _latency("First token p95", first_token.p95, first_token_before.p95, links()),
    ]


def not_split(tiles: list[Tile]) -> list[Tile]:
    """Tiles of figures that are not counted by outcome."""
    return [Tile(tile.title, NOTHING, note=NOT_SPLIT) for tile in tiles]


def refused_kinds(totals: UsageTotals) -> str:
    """`12 by rate, 3 by budget`."""
    counts = ((getattr(totals, kind), kind.removeprefix("refused_")) for kind in REFUSALS)
    return ", ".join(f"{compact(count)} by {kind}" for count, kind in counts if count)


def _amount(now: int, before: int, known: bool) -> str:
    if not known:
        return NO_EARLIER_DATA
    if not before:
        return "0 before" if now else UNCHANGED
    return _signed((now - before) / before * 100, 0, " %")


def _rate(now: float | None, before: float | None, more: str) -> tuple[str, str]:
    """The change of a share in percentage points, and its tone, where `more` is that of more."""
    if now is None:
        return "", ""
    if before is None:
        return NO_EARLIER_DATA, ""
    change = _signed((now - before) * 100, 1, " pp")
    return change, "" if change == UNCHANGED else more if now > before else OPPOSITE[more]


def _latency(title: str, now: float | None, before: float | None, href: str) -> Tile:
    if now is None:
        return Tile(title, NOTHING)
    if not before:
        return Tile(title, duration(now), NO_EARLIER_DATA, href=href)
    change = (now - before) / before * 100
    tone = "" if abs(change) < NOTEWORTHY else WORSE if change > 0 else BETTER
    return Tile(title, duration(now), _signed(change, 0, " %"), tone, href=href)


def _signed(change: float, digits: int, unit: str) -> str:
    text = f"{change:+,.{digits}f}"
    return UNCHANGED if float(text.replace(",", "")) == 0 else text.replace("-", "−") + unit
