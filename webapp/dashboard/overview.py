"""The overview: traffic, money and latency of a period, by model, provider and key; health."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from typing import Any
from urllib.parse import urlencode

from flask import request

from webapp.dashboard.breakdown import METRICS, breakdown_chart, rows_by_model, rows_by_provider
from webapp.dashboard.charts import (
    latency_charts,
    money_chart,
    requests_chart,
    step_links,
    tokens_chart,
)
from webapp.dashboard.filters import Filters, choices, read_filters
from webapp.dashboard.pages import Blueprint, page
from webapp.dashboard.providers import states
from webapp.dashboard.session import is_admin, members
from webapp.dashboard.tiles import latency_tiles, money_tiles, traffic_tiles
from webapp.dashboard.visibility import cached_inputs_of, own_keys
from webapp.metering.overview import Figures
from webapp.metering.ranges import RANGES, Range, custom
from webapp.metering.request_log import Outcome
from webapp.metering.selected import Selected
from webapp.metering.totals import REFUSALS, UsageTotals
from webapp.observability.health import overall
from webapp.services import services

blueprint = members(Blueprint("overview", __name__))

DEFAULT = "24h"
CUSTOM_LENGTH = 86_400  # seconds, of a custom range without a start
BREAKDOWNS = ("model", "provider")


@blueprint.get("/")
def overview() -> Any:
    """Figures of a period, compared with the previous one"""
    filters = read_filters(DEFAULT)
    range_ = _range(filters)
    by, metric = _chosen("by", BREAKDOWNS), _chosen("metric", METRICS)
    if filters.outcome is not None:
        metric = "requests"
    zoomed = request.args.get("zoomed")
    view = {"by": by, "metric": metric, "zoomed": zoomed if zoomed in RANGES else None}
    selected = Selected(filters.key_ids, filters.endpoint, filters.provider, filters.model)
    services().traffic.flush()
    figures = _of_outcome(services().overview.figures(range_, selected), filters.outcome)
    latencies = services().overview.latencies(range_, selected)

    links = partial(filters.url, "requests.latest")

    def page_url(**changes: Any) -> str:
        """The address of this page with other filters, or another view."""
        views = {name: changes.pop(name, value) for name, value in view.items()}
        shown = urlencode(_not_default(views))
        return filters.url("overview.overview", **changes) + (f"&{shown}" if shown else "")

    rows = (
        rows_by_model(figures, latencies) if by == "model"
        else rows_by_provider(figures, lambda provider: services().overview.latencies(
            range_, replace(selected, provider=provider)
        ))
    )  # fmt: skip
    times = [at for at, _ in figures.steps]
    charts = [
        requests_chart(figures.steps, range_.is_running, links),
        breakdown_chart(rows, by, metric, times, range_.is_running, links),
    ]
    if filters.outcome is None:
        charts += [
            *latency_charts(latencies, range_.is_running),
            money_chart(figures.steps, range_.is_running),
            tokens_chart(figures.steps, range_.is_running),
        ]
    # A provider that does not respond must not delay the page.
    checks = services().health.checks(ask_providers=False)
    days = range_.steps if range_.by_day else 1
    return page(
        "overview.html",
        filters=filters,
        choices=choices(filters),
        ranges=RANGES.values(),
        selected_range=range_,
        view=view,
        page_url=page_url,
        links=links,
        groups={
            "Traffic": traffic_tiles(figures, links),
            "Money": money_tiles(figures, filters.outcome),
            "Latency": latency_tiles(latencies, filters.outcome),
        },
        sampled=latencies.sampled,
        charts=charts,
        step_links=step_links(charts[0], range_.step, links),
        rows=rows,
        metrics=METRICS,
        figures=figures,
        checks=checks,
        status=overall(checks)[0],
        providers=states(ask=False) if is_admin() else [],
        fresh=services().traffic.is_empty(filters.visible_ids),
        keys=own_keys(),
        cached_days=days,
        cached_inputs=cached_inputs_of(days, filters.key_ids),
    )


def _of_outcome(figures: Figures, outcome: str | None) -> Figures:
    """The counts of one outcome alone."""
    if outcome is None:
        return figures

    def only(totals: UsageTotals) -> UsageTotals:
        if outcome == Outcome.SUCCESS:
            counted = totals.only(("hits", "misses"))
            counted.requests = totals.requests - totals.errors
            return counted
        if outcome == Outcome.ERROR:
            return UsageTotals(requests=totals.errors, errors=totals.errors)
        return totals.only(REFUSALS if outcome == Outcome.REFUSED else ())

    return replace(
        figures,
        now=only(figures.now),
        before=only(figures.before),
        steps=[(at, only(totals)) for at, totals in figures.steps],
        top_keys=[
            (key_id, name, is_account, only(totals))
            for key_id, name, is_account, totals in figures.top_keys
        ],
        targets=[
            replace(target, total=only(target.total), steps=[only(step) for step in target.steps])
            for target in figures.targets
        ],
    )


def _range(filters: Filters) -> Range:
    """Of a custom range, one end may be missing. May raise ValidationError."""
    if filters.range is not None:
        return RANGES[filters.range]
    until = time.time() if filters.until is None else filters.until
    return custom(until - CUSTOM_LENGTH if filters.since is None else filters.since, until)


def _chosen(name: str, options: Iterable[str]) -> str:
    """One of these names from the query; the first is the default."""
    default, *others = options
    sent = request.args.get(name)
    return sent if sent in others else default


def _not_default(view: dict[str, str | None]) -> dict[str, str]:
    defaults = {"by": BREAKDOWNS[0], "metric": next(iter(METRICS)), "zoomed": None}
    return {name: value for name, value in view.items() if value and value != defaults[name]}
