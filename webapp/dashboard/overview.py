"""The overview: health, cost, top keys, errors."""

from __future__ import annotations

from typing import Any

from flask import request

from webapp.dashboard.pages import Blueprint, page
from webapp.dashboard.providers import states
from webapp.dashboard.session import is_admin, members
from webapp.dashboard.visibility import cached_inputs_of, own_keys, visible_ids
from webapp.metering.overview import RANGES
from webapp.observability.health import overall
from webapp.services import services

blueprint = members(Blueprint("overview", __name__))

DEFAULT = "24h"


@blueprint.get("/")
def overview() -> Any:
    """Figures of a period, compared with the previous one"""
    selected_range = RANGES.get(request.args.get("range", DEFAULT)) or RANGES[DEFAULT]
    key_ids = visible_ids()
    services().traffic.flush()
    figures = services().overview.figures(selected_range, key_ids)
    latency, latency_before = figures.latency, figures.latency_before
    if key_ids is not None:
        latency, latency_before = (
            services().request_log.latencies(key_ids, first, first + selected_range.length)
            for first in (selected_range.first, selected_range.first - selected_range.length)
        )
    days = selected_range.steps if selected_range.by_day else 1
    # A provider that does not respond must not delay the page.
    checks = services().health.checks(ask_providers=False)
    return page(
        "overview.html",
        ranges=RANGES.values(),
        selected_range=selected_range,
        figures=figures,
        latency=latency,
        latency_before=latency_before,
        checks=checks,
        status=overall(checks)[0],
        providers=states(ask=False) if is_admin() else [],
        fresh=services().traffic.is_empty(key_ids),
        keys=own_keys(),
        cached_days=days,
        cached_inputs=cached_inputs_of(days, key_ids),
    )
