"""Requests: the request log with filters, and one request with its provider calls."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from flask import request

from webapp.accounts.keys import LARGEST_ID
from webapp.dashboard.pages import LARGEST_BIG_ID, Blueprint, number_of, page
from webapp.dashboard.session import is_admin, members
from webapp.dashboard.visibility import names_of_keys, visible_ids
from webapp.errors import NotFound, ProviderRefusedWeir
from webapp.metering.request_log import Wanted
from webapp.observability.request_context import REQUEST_ID
from webapp.services import services

blueprint = members(Blueprint("requests", __name__))

CACHES = ("HIT", "MISS", "COALESCED", "STALE", "BYPASS")
OUTCOMES = {"ok": False, "failed": True}


@blueprint.get("/requests")
def latest() -> Any:
    """Recent requests, filtered by key, status, endpoint, model, …"""
    visible = visible_ids()
    filters = {name: value for name, value in request.args.items() if value and "\0" not in value}
    wanted = Wanted(
        key_ids=_key_ids(filters.get("key", ""), visible),
        endpoint=filters.get("endpoint"),
        provider=filters.get("provider"),
        model=filters.get("model"),
        cache=filters.get("cache") if filters.get("cache") in CACHES else None,
        status=number_of(filters.get("status"), LARGEST_ID),
        failed=OUTCOMES.get(filters.get("outcome", "")),
        since=_moment(filters.get("since")),
        until=_moment(filters.get("until")),
    )
    services().request_log.flush()
    found = services().request_log.page(
        wanted, before=number_of(filters.get("before"), LARGEST_BIG_ID)
    )
    endpoints, providers, models = services().request_log.names(visible)
    older = None
    if found.older is not None:
        older = "?" + urlencode(filters | {"before": str(found.older)})
    return page(
        "requests.html",
        filters=filters,
        found=found,
        older=older,
        names=names_of_keys(),
        endpoints=endpoints,
        providers=providers,
        models=models,
        caches=CACHES,
        log_prompts=services().settings.log_prompts,
        kept_days=services().settings.request_log_retention,
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


def _key_ids(sent: str, visible: set[int] | None) -> set[int] | None:
    if not sent.isdecimal():
        return visible
    chosen = number_of(sent, LARGEST_ID) or 0
    return {chosen} if visible is None else {chosen} & visible


def _moment(sent: str | None) -> float | None:
    """Unix seconds of a date and time (UTC) from a form."""
    try:
        return datetime.fromisoformat(sent).replace(tzinfo=UTC).timestamp() if sent else None
    except (ValueError, OverflowError):
        return None
