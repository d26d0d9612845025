"""The figures of a period by model or by provider: a table, and a stacked chart over time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from webapp.dashboard.charts import COUNT, MONEY, Chart, Links, Series, Unit
from webapp.dashboard.filters import NO_PROVIDER
from webapp.metering.histogram import Latencies
from webapp.metering.latencies import LatencyFigures
from webapp.metering.overview import Figures, TargetFigures
from webapp.metering.price import Price
from webapp.metering.totals import UsageTotals
from webapp.observability.metrics import OTHER

# Each metric of the chart: its title, the field of UsageTotals, how it is shown.
METRICS: dict[str, tuple[str, str, Unit]] = {
    "cost": ("Cost", "cost_nano", MONEY),
    "tokens": ("Tokens", "tokens", COUNT),
    "requests": ("Requests", "requests", COUNT),
    "refused": ("Refused", "refused", COUNT),
}
SERIES_MAX = 6  # the others are summed
NO_TARGET = "No model"
NOT_MEASURED = Latencies()

PriceOf = Callable[[str, str], Price | None]


@dataclass(frozen=True, slots=True)
class Row:
    """A model of a provider, or a provider (`model` is None), with what filters select it. A model
    that runs in Weir has no provider. `unpriced` means that the cost of its calls is unknown."""

    name: str
    provider: str
    model: str | None
    total: UsageTotals
    steps: Sequence[UsageTotals]
    latency: Latencies = NOT_MEASURED
    first_token: Latencies = NOT_MEASURED
    unpriced: bool = False

    @property
    def filters(self) -> dict[str, str] | None:
        """None: no filter selects what had no model. Of OTHER, its provider's."""
        model = None if self.model == OTHER else self.model
        provider = self.provider or (NO_PROVIDER if self.model is None else None)
        names = {"provider": provider, "model": model}
        return {title: name for title, name in names.items() if name} or None


def rows_by_model(figures: Figures, latencies: LatencyFigures, price_of: PriceOf) -> list[Row]:
    """A model that two providers serve has a row of each: their prices differ."""
    names = Counter(target.model for target in figures.targets)
    timings = {(one[0], one[1]): (one[3], one[4]) for one in latencies.targets}
    rows = []
    for one in figures.targets:
        is_unique = names[one.model] == 1 or not one.provider
        name = (one.model if is_unique else f"{one.provider}/{one.model}") or NO_TARGET
        timing = timings.get((one.provider, one.model), (NOT_MEASURED, NOT_MEASURED))
        unpriced = _is_unpriced(one, price_of)
        rows.append(Row(name, one.provider, one.model, one.total, one.steps, *timing, unpriced))
    return rows


def rows_by_provider(figures: Figures, latencies: LatencyFigures, price_of: PriceOf) -> list[Row]:
    rows = []
    for provider in dict.fromkeys(target.provider for target in figures.targets):
        targets = [target for target in figures.targets if target.provider == provider]
        timing = latencies.providers.get(provider, (NOT_MEASURED, NOT_MEASURED))
        called = [target for target in targets if target.total.calls]
        unpriced = bool(called) and all(_is_unpriced(target, price_of) for target in called)
        total = _sum([target.total for target in targets])
        steps = [_sum(step) for step in zip(*(target.steps for target in targets), strict=True)]
        rows.append(Row(provider or "No provider", provider, None, total, steps, *timing, unpriced))
    return sorted(rows, key=lambda row: (-row.total.cost_nano, -row.total.requests))


def _is_unpriced(target: TargetFigures, price_of: PriceOf) -> bool:
    """Whether its calls had no price, as far as can be said by that of now."""
    total = target.total
    return bool(total.calls and not total.cost_nano) and not price_of(target.provider, target.model)


def breakdown_chart(
    rows: Sequence[Row], by: str, metric: str, figures: Figures, is_running: bool, links: Links
) -> Chart:
    """The largest, each with its colour, and the sum of the others."""
    title, attribute, unit = METRICS[metric]

    def values(totals: Sequence[UsageTotals]) -> list[float | None]:
        return [getattr(total, attribute) for total in totals]

    sorted_rows = sorted(rows, key=lambda row: -getattr(row.total, attribute))
    sorted_rows = [row for row in sorted_rows if getattr(row.total, attribute)]
    series = [
        Series(
            row.name, f"series-{place}", values(row.steps),
            None if row.filters is None else links(**row.filters),
        )
        for place, row in enumerate(sorted_rows[:SERIES_MAX], 1)
    ]  # fmt: skip
    if others := sorted_rows[SERIES_MAX:]:
        steps = [_sum(step) for step in zip(*(row.steps for row in others), strict=True)]
        series.append(Series("Other", "series-other", values(steps)))
    times = [at for at, _ in figures.steps]
    return Chart("breakdown", f"{title} by {by}", unit, series, times, is_running)


def _sum(totals: Sequence[UsageTotals]) -> UsageTotals:
    result = UsageTotals()
    for one in totals:
        result.add(one)
    return result
