"""The tiles of the overview: a figure, its change against the period before, where it leads."""

from __future__ import annotations

from dataclasses import dataclass

from webapp.dashboard.charts import Links
from webapp.dashboard.formatting import compact, duration, nano, percent
from webapp.metering.latencies import LatencyFigures
from webapp.metering.overview import Figures
from webapp.metering.target_latency import Latencies
from webapp.metering.totals import REFUSALS, UsageTotals

NOT_SPLIT = "not split by outcome"
# A change is worse or better where more of a figure is; what follows traffic is neither.
WORSE, BETTER = "worse", "better"
OPPOSITE = {WORSE: BETTER, BETTER: WORSE, "": ""}
PERCENTAGE_POINTS, PER_CENT = " pp", " %"


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
            "Requests", compact(now.requests), *_amount(now.requests, before.requests, known),
            href=links(),
        ),
        Tile(
            "Cache hit rate", percent(now.hit_rate), *_rate(now.hit_rate, before.hit_rate, BETTER),
            note=f"{compact(now.hits)} from cache", href=links(cache="HIT"),
        ),
        Tile(
            "Error rate", percent(now.error_rate), *_rate(now.error_rate, before.error_rate, WORSE),
            note=f"{compact(now.errors)} errors", href=links(outcome="error"),
        ),
        Tile(
            "Refused", compact(now.refused), *_amount(now.refused, before.refused, known),
            note=refused_kinds(now), href=links(outcome="refused"),
        ),
    ]  # fmt: skip


def money_tiles(figures: Figures, outcome: str | None) -> list[Tile]:
    now, before = figures.now, figures.before
    titles = "Cost", "Cache savings", "Billed tokens", "Cached input"
    if outcome is not None:
        return [Tile(title, "–", note=NOT_SPLIT) for title in titles]
    known = bool(before.requests)
    in_out = f"{compact(now.input_tokens)} in, {compact(now.output_tokens)} out"
    amounts = [
        (nano(now.cost_nano), _amount(now.cost_nano, before.cost_nano, known), ""),
        (nano(now.saved_nano), _amount(now.saved_nano, before.saved_nano, known),
         "incl. coalesced"),
        (compact(now.tokens), _amount(now.tokens, before.tokens, known), in_out),
        (percent(now.cached_share), _rate(now.cached_share, before.cached_share, BETTER),
         f"{compact(now.cached_input_tokens)} tokens"),
    ]  # fmt: skip
    return [
        Tile(title, value, *change, note=note)
        for title, (value, change, note) in zip(titles, amounts, strict=True)
    ]


def latency_tiles(latencies: LatencyFigures, outcome: str | None) -> list[Tile]:
    shown = [
        ("Latency", name, latencies.now, latencies.before) for name in ("p50", "p95", "p99")
    ] + [
        ("First token", name, latencies.first_token, latencies.first_token_before)
        for name in ("p50", "p95")
    ]
    if outcome is not None:
        return [Tile(f"{title} {name}", "–", note=NOT_SPLIT) for title, name, _, _ in shown]
    return [_latency(f"{title} {name}", name, now, before) for title, name, now, before in shown]


def refused_kinds(totals: UsageTotals) -> str:
    """`12 by rate, 3 by budget`."""
    counts = ((getattr(totals, kind), kind.removeprefix("refused_")) for kind in REFUSALS)
    return ", ".join(f"{compact(count)} by {kind}" for count, kind in counts if count)


def _latency(title: str, name: str, now: Latencies, before: Latencies) -> Tile:
    value, earlier = getattr(now, name), getattr(before, name)
    change = _change(value, earlier, PER_CENT, WORSE) if value is not None else ("", "")
    return Tile(title, duration(value), *change)


def _amount(now: int, before: int, known: bool) -> tuple[str, str]:
    """The change of an amount; without colour."""
    if not known:
        return "no earlier data", ""
    if not before:
        return "0 before" if now else "unchanged", ""
    return _change(now, before, PER_CENT, "")


def _rate(now: float | None, before: float | None, more: str) -> tuple[str, str]:
    return ("", "") if now is None else _change(now, before, PERCENTAGE_POINTS, more)


def _change(now: float, before: float | None, unit: str, more: str) -> tuple[str, str]:
    """The change in words, and its tone, where `more` is that of a greater figure."""
    if before is None or (unit == PER_CENT and not before):
        return "no earlier data", ""
    points = unit == PERCENTAGE_POINTS
    change = (now - before) * 100 if points else (now - before) / before * 100
    if abs(change) < (0.05 if points else 0.5):
        return "unchanged", ""
    text = f"{change:+,.1f}" if points else f"{change:+,.0f}"
    return text.replace("-", "−") + unit, more if change > 0 else OPPOSITE[more]
