"""Charts as the pages draw them: stacked bars or lines in SVG, from the figures of each step.

Coordinates: a step is one unit wide, with its centre at its number; the plot is HEIGHT units high
and stretches to the width of the page. A bar is one stroke, so a chart takes few bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from webapp import money
from webapp.dashboard.filters import NO_ERROR
from webapp.dashboard.formatting import compact, duration, nano, number
from webapp.metering.latencies import LatencyFigures
from webapp.metering.request_search import CACHED, UNCACHED
from webapp.metering.totals import UsageTotals

HEIGHT = 200
Y_TICKS_MAX, X_TICKS_MAX = 5, 8  # intervals between labels
DAY = 86_400  # seconds
TICK_INTERVALS = [60 * minutes for minutes in (1, 2, 5, 10, 15, 30)] + [
    3600 * hours for hours in (1, 2, 3, 4, 6, 12, 24)
]

Value = float | None
Steps = Sequence[tuple[int, UsageTotals]]  # Unix seconds, totals
Links = Callable[..., str]  # the address of the requests with these filters


@dataclass(frozen=True, slots=True)
class Series:
    """A series of a chart: `style` is a class of charts.css, `href` leads to what is behind it."""

    name: str
    style: str
    values: Sequence[Value]
    href: str | None = None


@dataclass(frozen=True, slots=True)
class Unit:
    """How values are shown: `text` in full, `axis` as the label of a tick."""

    text: Callable[[Value], str]
    axis: Callable[[float], str]
    whole: bool = False


def _axis_usd(value: float) -> str:
    """Ticks are round numbers: no digit of theirs is dropped."""
    whole, _, decimals = f"{money.to_usd(round(value)):,.9f}".partition(".")
    return f"${whole}.{decimals.rstrip('0').ljust(2, '0')}".removesuffix(".00")


def _axis_milliseconds(value: float) -> str:
    return f"{value / 1000:g} s" if value >= 1000 else f"{value:g} ms" if value else "0"


COUNT = Unit(number, lambda value: compact(round(value)), whole=True)  # type: ignore[arg-type]
MONEY = Unit(nano, _axis_usd, whole=True)  # type: ignore[arg-type]
DURATION = Unit(duration, _axis_milliseconds)


@dataclass(frozen=True, slots=True)
class Path:
    """What is drawn of a series (its number): `d` of an SVG path. `running` is the current step."""

    series: int
    style: str
    d: str
    running: bool = False


@dataclass(frozen=True, slots=True)
class Chart:
    """One chart. All charts of a page have the same `times`: Unix seconds at which steps begin."""

    id: str
    title: str
    unit: Unit
    series: Sequence[Series]
    times: Sequence[int]
    is_running: bool
    lines: bool = False
    height: int = field(default=HEIGHT, init=False)

    @property
    def is_empty(self) -> bool:
        return not any(value for series in self.series for value in series.values)

    @property
    def top(self) -> float:
        """The value at the upper edge."""
        return self._tick_size * max(1, math.ceil(self._highest / self._tick_size))

    @property
    def y_ticks(self) -> list[tuple[float, str]]:
        """(Per cent of the height from above, label). Without data there is no scale."""
        if self.is_empty:
            return [(100, "0")]
        count = round(self.top / self._tick_size)
        return [
            (100 - 100 * tick / count, self.unit.axis(tick * self._tick_size))
            for tick in range(count + 1)
        ]

    @property
    def x_ticks(self) -> list[tuple[float, int, str]]:
        """(Per cent of the width, Unix seconds, label in UTC)."""
        return [
            (round((place + 0.5) / len(self.times) * 100, 2), at, self._tick_label(at))
            for place, at in enumerate(self.times)
            if self._has_tick(place, at)
        ]

    @property
    def by_day(self) -> bool:
        return self._step >= DAY

    @property
    def _step(self) -> int:
        """In seconds."""
        return self.times[1] - self.times[0] if len(self.times) > 1 else DAY

    def _has_tick(self, place: int, at: int) -> bool:
        length = self._step * len(self.times)
        fitting = [size for size in TICK_INTERVALS if size * X_TICKS_MAX >= length]
        if self.by_day or not fitting:
            return place % math.ceil(len(self.times) / X_TICKS_MAX) == 0
        return at % fitting[0] < self._step

    def _tick_label(self, at: int) -> str:
        moment = datetime.fromtimestamp(at, UTC)
        if self.by_day or at % DAY == 0:
            return f"{moment:%b} {moment.day}"
        return f"{moment:%H:%M}"

    @property
    def paths(self) -> list[Path]:
        return list(self._line_paths() if self.lines else self._bar_paths())

    @property
    def _highest(self) -> float:
        if self.lines:
            return max((value or 0 for series in self.series for value in series.values), default=0)
        columns = zip(*(series.values for series in self.series), strict=True)
        return max((sum(value or 0 for value in column) for column in columns), default=0)

    @property
    def _tick_size(self) -> float:
        """1, 2 or 5 times a power of ten."""
        least = self._highest / Y_TICKS_MAX or 1
        if self.unit.whole:
            least = max(1, least)
        power = 10.0 ** math.floor(math.log10(least))
        return next(power * size for size in (1, 2, 5, 10) if power * size >= least * (1 - 1e-9))

    def _bar_paths(self) -> Iterable[Path]:
        """What is not zero is drawn, however small it is beside the rest."""
        scale = HEIGHT / self.top
        last = len(self.times) - 1
        levels = [0.0] * len(self.times)
        for number_, series in enumerate(self.series):
            bars: dict[bool, list[str]] = {False: [], True: []}
            for place, value in enumerate(series.values):
                if not value:
                    continue
                foot, levels[place] = levels[place], levels[place] + max(value * scale, 2)
                bar = f"M{place} {HEIGHT - round(foot)}V{HEIGHT - round(levels[place])}"
                bars[self.is_running and place == last].append(bar)
            for running, found in bars.items():
                if found:
                    yield Path(number_, series.style, "".join(found), running)

    def _line_paths(self) -> Iterable[Path]:
        """A step without a value is a gap; a value between two gaps is as wide as a bar."""
        scale = HEIGHT / self.top
        last = len(self.times) - 1
        for number_, series in enumerate(self.series):
            lines: dict[bool, list[str]] = {False: [], True: []}
            before: str | None = None
            for place, value in enumerate(series.values):
                if value is None:
                    before = None
                    continue
                point = f"{place} {HEIGHT - round(value * scale)}"
                running = self.is_running and place == last
                if running and before:
                    lines[running].append(f"M{before}L{point}")
                else:
                    alone = before is None and (place == last or series.values[place + 1] is None)
                    level = point.partition(" ")[2]
                    start = f"M{place - 0.4:g} {level}h0.8" if alone else f"M{point}h0"
                    # Of a line so short, dashes would show nothing.
                    lines[running and not alone].append(f"L{point}" if before else start)
                before = point
            for running, found in lines.items():
                if found:
                    yield Path(number_, series.style, "".join(found), running)


def requests_chart(steps: Steps, is_running: bool, links: Links, title: str = "Requests") -> Chart:
    """Requests by outcome. What the cache did not answer also has what needed no answer of a
    provider, such as requests that were not valid: these are not counted apart."""
    totals = [total for _, total in steps]
    uncached = [max(0, one.requests - one.hits - one.errors) for one in totals]
    series = [
        Series("Cached", "cache", [one.hits for one in totals], links(cache=CACHED)),
        Series("Uncached", "provider", uncached, links(cache=UNCACHED, outcome=NO_ERROR)),
        Series("Errors", "errors", [one.errors for one in totals], links(outcome="error")),
        Series("Refused", "refused", [one.refused for one in totals], links(outcome="refused")),
    ]
    return Chart("requests", title, COUNT, series, [at for at, _ in steps], is_running)


def money_chart(steps: Steps, is_running: bool, title: str = "Cost and cache savings") -> Chart:
    totals = [total for _, total in steps]
    series = [
        Series("Cost", "series-1", [one.cost_nano for one in totals]),
        Series("Cache savings", "series-4", [one.saved_nano for one in totals]),
    ]
    return Chart("money", title, MONEY, series, [at for at, _ in steps], is_running)


def tokens_chart(steps: Steps, is_running: bool) -> Chart:
    totals = [total for _, total in steps]
    uncached = [one.input_tokens - one.cached_input_tokens for one in totals]
    series = [
        Series("Input", "series-1", uncached),
        Series("Cached input", "series-4", [one.cached_input_tokens for one in totals]),
        Series("Output", "series-2", [one.output_tokens for one in totals]),
    ]
    return Chart("tokens", "Billed tokens", COUNT, series, [at for at, _ in steps], is_running)


def latency_charts(latencies: LatencyFigures, is_running: bool) -> list[Chart]:
    """Until the end of requests, and until the first token of streams."""
    steps = latencies.steps
    charts = []
    for place, id_, title in ((1, "latency", "Latency"), (2, "first-token", "Time to first token")):
        series = [
            Series(name, f"series-{style}", [getattr(step[place], name) for step in steps])
            for style, name in enumerate(("p50", "p95", "p99"), 1)
        ]
        times = [step[0] for step in steps]
        charts.append(Chart(id_, title, DURATION, series, times, is_running, lines=True))
    return charts


def step_links(chart: Chart, step: int, links: Links) -> list[str]:
    """The addresses of the requests of each step, which takes so many seconds."""
    return [links(since=at, until=at + step) for at in chart.times]
