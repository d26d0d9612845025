"""Requests: the request log with filters, as a page and as CSV, and one request with its calls."""

from __future__ import annotations

import time
from itertools import chain
from typing import Any

from flask import Response, redirect, request, url_for

from webapp.dashboard.filters import Filters, choices, read_filters
from webapp.dashboard.pages import LARGEST_BIG_ID, Blueprint, number_of, page
from webapp.dashboard.reasons import reason_of
from webapp.dashboard.session import is_admin, members
from webapp.dashboard.visibility import names_of_keys, urls_of_keys, visible_ids
from webapp.errors import NotFound, ProviderRefusedWeir
from webapp.metering.ranges import RANGES
from webapp.metering.request_export import MAX_EXPORTED, csv_of
from webapp.metering.request_outcome import Outcome
from webapp.metering.request_search import Count, Page, Wanted
from webapp.metering.timeline import timelines
from webapp.observability.request_context import REQUEST_ID
from webapp.services import services

blueprint = members(Blueprint("requests", __name__))

SHORTEST_PREFIX = 8  # characters of a request id that are enough to search for it
MAX_CALLS = 100  # of one request that are shown
DAY = 86_400  # seconds


@blueprint.get("/requests")
def latest() -> Any:
    """Recent requests, filtered by key, outcome, model, time, …"""
    filters = read_filters()
    services().request_log.flush()
    searched = request.args.get("id", "").strip()
    if searched:
        return _search(searched)
    wanted = _wanted(filters)
    before, after = (
        number_of(request.args.get(name), LARGEST_BIG_ID) for name in ("before", "after")
    )
    found = services().request_search.page(wanted, before=before, after=after)
    return _listed(filters, found, _count(wanted, found))


def _search(searched: str) -> Any:
    """The request with this id, or those whose id begins so."""
    if REQUEST_ID.fullmatch(searched):
        visible = visible_ids()
        if services().request_search.find(searched, visible) or _calls(searched, visible):
            return redirect(url_for("requests.one", request_id=searched))
    rows = []
    if len(searched) >= SHORTEST_PREFIX and REQUEST_ID.fullmatch(searched):
        rows = services().request_search.find_by_prefix(searched, visible_ids())
    if len({row.request_id for row in rows}) == 1:
        return redirect(url_for("requests.one", request_id=rows[0].request_id))
    return _listed(Filters(visible_ids=visible_ids()), Page(rows, None), None, searched)


def _listed(filters: Filters, found: Page, count: Count | None, searched: str = "") -> Any:
    return page(
        "requests.html",
        filters=filters,
        choices=choices(filters),
        url_of_key=urls_of_keys(),
        ranges=RANGES.values(),
        found=found,
        count=count,
        searched=searched,
        shortest_prefix=SHORTEST_PREFIX,
        max_exported=MAX_EXPORTED,
        log_prompts=services().settings.log_prompts,
        kept_days=services().settings.request_log_retention,
    )


def _count(wanted: Wanted, found: Page) -> Count:
    if found.newer is None and (found.older is None or found.looked_back_to is not None):
        return Count(len(found.rows), found.looked_back_to is None)
    return services().request_search.count(wanted)


@blueprint.get("/requests.csv")
def export() -> Response:
    """The filtered requests as CSV"""
    services().request_log.flush()
    rows = services().request_search.all(_wanted(read_filters()), MAX_EXPORTED + 1)
    # What the first page raises is an error page, before anything is sent.
    first = next(rows, None)
    lines = csv_of(chain([] if first is None else [first], rows), names_of_keys(), MAX_EXPORTED)
    response = Response(lines, mimetype="text/csv")
    response.headers["Content-Disposition"] = 'attachment; filename="requests.csv"'
    response.headers["Cache-Control"] = "no-store"
    return response


def _wanted(filters: Filters) -> Wanted:
    period = RANGES[filters.range] if filters.range else None
    return Wanted(
        key_ids=filters.key_ids,
        endpoint=filters.endpoint,
        provider=filters.provider_name,
        model=filters.model,
        cache=filters.cache,
        status=filters.status,
        outcomes=list(map(Outcome, filters.outcomes)) or None,
        since=period.first if period else filters.since,
        until=period.until if period else filters.until,
    )


@blueprint.get("/requests/<request_id>")
def one(request_id: str) -> Any:
    """One request: outcome, timeline of its provider calls, cost"""
    if not REQUEST_ID.fullmatch(request_id):
        raise NotFound
    visible = visible_ids()
    services().request_log.flush()
    rows = services().request_search.find(request_id, visible)
    calls = _calls(request_id, visible)
    if not rows and not calls:
        raise NotFound("Request not found in the request log.")
    stored_since = time.time() - services().settings.ledger_retention * DAY
    return page(
        "request.html",
        request_id=request_id,
        timelines=timelines(rows, calls),
        more_calls=len(calls) == MAX_CALLS,
        reasons={row.id: reason_of(row, stored_since) for row in rows},
        names=names_of_keys(),
        url_of_key=urls_of_keys(),
    )


def _calls(request_id: str, visible: set[int] | None) -> list[dict[str, Any]]:
    return [
        _shown(call)
        for call in services().calls.latest(request_id=request_id, count=MAX_CALLS)
        if visible is None or call["key_id"] in visible
    ]


def _shown(call: dict[str, Any]) -> dict[str, Any]:
    """What a provider says of Weir's own account and credentials is for administrators only."""
    private = call["error"] == ProviderRefusedWeir.__name__ and not is_admin()
    return call | {"provider_message": None} if private else call
