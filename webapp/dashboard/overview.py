"""The overview: health, cost, top keys, errors."""

from __future__ import annotations

from typing import Any

from flask import request

from webapp.dashboard.pages import Blueprint, page
from webapp.dashboard.providers import states
from webapp.dashboard.session import is_admin, members
from webapp.dashboard.visibility import cached_inputs_of, own_keys, visible_ids
from webapp.metering.ranges import RANGES
from webapp.metering.selected import Selected
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
    selected = Selected(key_ids)
    latencies = services().overview.latencies(selected_range, selected)
    days = selected_range.steps if selected_range.by_day else 1
    # A provider that does not respond must not delay the page.
    checks = services().health.checks(ask_providers=False)
    return page(
        "overview.html",
        ranges=RANGES.values(),
        selected_range=selected_range,
        figures=services().overview.figures(selected_range, selected),
        latency=latencies.now,
        latency_before=latencies.before,
        checks=checks,
        status=overall(checks)[0],
        providers=states(ask=False) if is_admin() else [],
        fresh=services().traffic.is_empty(key_ids),
        keys=own_keys(),
        cached_days=days,
        cached_inputs=cached_inputs_of(days, key_ids),
    )
