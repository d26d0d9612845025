"""The overview: traffic, money and latency of a period, by model, provider and key; health."""

from __future__ import annotations

import math
import time
from collections.abc import Collection
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from flask import request

from webapp.dashboard.breakdown import METRICS, breakdown_chart, rows_by_model, rows_by_provider
from webapp.dashboard.charts import (
    latency_charts,
    money_chart,
    requests_chart,
    step_links,
    tokens_chart,
)
from webapp.dashboard.filters import (
    COUNTED,
    NO_ERROR,
    NO_PROVIDER,
    Filters,
    choices,
    read_filters,
)
from webapp.dashboard.pages import Blueprint, page
from webapp.dashboard.providers import states
from webapp.dashboard.session import is_admin, members
from webapp.dashboard.tiles import latency_tiles, money_tiles, not_split, traffic_tiles
from webapp.dashboard.visibility import cached_inputs_of, own_keys, price_finder, urls_of_keys
from webapp.errors import ValidationError
from webapp.metering.activity import DAY
from webapp.metering.overview import Figures
from webapp.metering.prompt_caches import CachedInput
from webapp.metering.ranges import RANGES, Range, custom
from webapp.metering.request_outcome import Outcome
from webapp.metering.selected import Selected
from webapp.metering.totals import REFUSALS, UsageTotals
from webapp.observability.health import overall
from webapp.services import services

blueprint = members(Blueprint("overview", __name__))

DEFAULT = "24h"
CUSTOM_LENGTH = DAY  # seconds, of a custom range without a start
BREAKDOWNS = ("model", "provider")
COUNTED_OF: dict[str, str] = {Outcome.ERROR: "errors", Outcome.REFUSED: "refused"}
# The outcomes of the requests that are counted under those which this page can select.
LISTED_OUTCOMES: dict[str | None, str] = {
    None: COUNTED, Outcome.SUCCESS: NO_ERROR, Outcome.ERROR: Outcome.ERROR,
    Outcome.REFUSED: Outcome.REFUSED,
}  # fmt: skip


@blueprint.get("/")
def overview() -> Any:
    """Figures of a period, compared with the previous one"""
    filters = read_filters(DEFAULT)
    if filters.outcome not in LISTED_OUTCOMES:
        filters = replace(filters, outcome=None)
    asked, problem = filters, None
    try:
        range_ = _range(filters)
    except ValidationError as error:
        problem = error.details
        filters = replace(filters, range=DEFAULT, since=None, until=None)
        range_ = _range(filters)
    view = _view()
    by, metric = str(view["by"]), str(view["metric"])
    # What is counted of requests with this outcome.
    counted = COUNTED_OF.get(filters.outcome or "", "requests")
    if filters.outcome is not None:
        metric = "refused" if filters.outcome == Outcome.REFUSED else "requests"
    selected = Selected(filters.key_ids, filters.endpoint, filters.provider_name, filters.model)
    services().traffic.flush()
    figures = services().overview.figures(range_, selected, top_by=counted)
    figures = _of_outcome(figures, filters.outcome)
    latencies = services().overview.latencies(range_, selected)
    listed = replace(filters, outcome=LISTED_OUTCOMES[filters.outcome])
    links = partial(listed.url, "requests.latest")
    rows = (rows_by_provider if by == "provider" else rows_by_model)(
        figures, latencies, price_finder()
    )
    if filters.outcome is not None:
        rows = [row for row in rows if row.total.requests or row.total.refused]
    money = money_tiles(figures, links, any(row.unpriced for row in rows))
    latency = latency_tiles(latencies, links)
    charts = [
        requests_chart(figures.steps, range_.is_running, links),
        breakdown_chart(rows, by, metric, figures, range_.is_running, links),
    ]
    if filters.outcome is None:
        charts += latency_charts(latencies, range_.is_running)
        charts.append(money_chart(figures.steps, range_.is_running))
        charts.append(tokens_chart(figures.steps, range_.is_running))
    else:
        money, latency = not_split(money), not_split(latency)
    # A provider that does not respond must not delay the page.
    checks = services().health.checks(ask_providers=False)
    prompt_caches_title, cached_inputs = _prompt_caches(range_, filters)
    shown = page(
        "overview.html",
        filters=filters,
        asked=asked,
        problem=problem,
        choices=choices(filters),
        ranges=RANGES.values(),
        selected_range=range_,
        view=view,
        page_url=partial(_page_url, filters, view),
        links=links,
        groups={"Traffic": traffic_tiles(figures, links), "Money": money, "Latency": latency},
        sampled=latencies.sampled,
        charts=charts,
        step_links=step_links(charts[0], range_.step, partial(filters.url, "requests.latest")),
        rows=rows,
        no_provider=NO_PROVIDER,
        url_of_key=urls_of_keys(),
        figures=figures,
        checks=checks,
        status=overall(checks)[0],
        providers=states(ask=False) if is_admin() else [],
        fresh=services().traffic.is_empty(filters.visible_ids),
        keys=own_keys(),
        prompt_caches_title=prompt_caches_title,
        cached_inputs=cached_inputs,
    )
    return shown if problem is None else (shown, 422)


def _view() -> dict[str, str | None]:
    """How the page shows the figures: the breakdown, its chart's metric, and the range from which
    the user zoomed into this one."""
    return {
        "by": _one_of(BREAKDOWNS, "by") or BREAKDOWNS[0],
        "metric": _one_of(METRICS, "metric") or next(iter(METRICS)),
        "zoomed": _one_of(RANGES, "zoomed"),
    }


def _one_of(names: Collection[str], parameter: str) -> str | None:
    sent = request.args.get(parameter, "")
    return sent if sent in names else None


def _page_url(filters: Filters, view: dict[str, str | None], **changes: Any) -> str:
    """The address of this page with changed filters, or another view."""
    return filters.url("overview.overview", **{**view, **changes})


def _prompt_caches(range_: Range, filters: Filters) -> tuple[str, list[CachedInput]]:
    """What providers' prompt caches knew on the UTC days of a range, and how these are called."""
    today = datetime.now(UTC).date()
    last = min(today, datetime.fromtimestamp(range_.until - 1, UTC).date())
    days = math.ceil(range_.length / DAY)
    rows = cached_inputs_of(days, filters.key_ids, last)
    if last == today:
        return "today (UTC)" if days == 1 else f"last {days} days", rows
    return f"{last} (UTC)" if days == 1 else f"{days} days until {last}", rows


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
            if only(totals) != UsageTotals()
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
    now = time.time()
    until = now if filters.until is None else filters.until
    since = min(until, now) - CUSTOM_LENGTH if filters.since is None else filters.since
    return custom(since, until)
