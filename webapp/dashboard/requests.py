"""Requests: the request log with filters, and one request with its provider calls."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from flask import request

from webapp.dashboard.filters import Filters, choices, read_filters
from webapp.dashboard.pages import LARGEST_BIG_ID, Blueprint, number_of, page
from webapp.dashboard.session import is_admin, members
from webapp.dashboard.visibility import names_of_keys, visible_ids
from webapp.errors import NotFound, ProviderRefusedWeir
from webapp.metering.ranges import RANGES
from webapp.metering.request_log import Outcome, Wanted
from webapp.observability.request_context import REQUEST_ID
from webapp.services import services

blueprint = members(Blueprint("requests", __name__))


@blueprint.get("/requests")
def latest() -> Any:
    """Recent requests, filtered by key, outcome, model, time, …"""
    filters = read_filters()
    services().request_log.flush()
    before = number_of(request.args.get("before"), LARGEST_BIG_ID)
    found = services().request_log.page(_wanted(filters), before=before)
    return page(
        "requests.html",
        filters=filters,
        choices=choices(filters),
        ranges=RANGES.values(),
        found=found,
        before=before,
        names=names_of_keys(),
        log_prompts=services().settings.log_prompts,
        kept_days=services().settings.request_log_retention,
    )


def _wanted(filters: Filters) -> Wanted:
    period = RANGES[filters.range] if filters.range else None
    return Wanted(
        key_ids=filters.key_ids,
        endpoint=filters.endpoint,
        provider=filters.provider,
        model=filters.model,
        cache=filters.cache,
        status=filters.status,
        outcome=Outcome(filters.outcome) if filters.outcome else None,
        since=period.first if period else filters.since,
        until=period.first + period.length if period else filters.until,
    )


@blueprint.get("/requests/<request_id>")
def one(request_id: str) -> Any:
    """One request: outcome, provider calls, cost"""
    if not REQUEST_ID.fullmatch(request_id):
        raise NotFound
    visible = visible_ids()
    services().request_log.flush()
    rows = services().request_log.find(request_id, visible)
    calls = [
        call for call in services().calls.latest(request_id=request_id)
        if visible is None or call["key_id"] in visible
    ]  # fmt: skip
    if not rows and not calls:
        raise NotFound("Request not found in the request log.")
    return page(
        "request.html",
        request_id=request_id,
        rows=rows,
        calls=[_shown(call) for call in reversed(calls)],
        names=names_of_keys(),
    )


def _shown(call: dict[str, Any]) -> dict[str, Any]:
    """A provider call with its duration. What a provider says of Weir's own account and
    credentials is for administrators only."""
    private = call["error"] == ProviderRefusedWeir.__name__ and not is_admin()
    words = None if private else call["provider_message"]
    return call | {"milliseconds": _took(call), "provider_message": words}


def _took(call: dict[str, Any]) -> float | None:
    """Milliseconds from a call's reservation to its settlement."""
    if call["settled_at"] is None:
        return None
    started, ended = (datetime.fromisoformat(call[name]) for name in ("reserved_at", "settled_at"))
    return (ended - started).total_seconds() * 1000
