"""The audit log: who changed what, when, from which address."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from flask import request

from webapp.accounts.audit import ACCOUNT, ACTIONS, KEY, Event, EventFilter
from webapp.dashboard.filters import PERIOD, Filters, read_filters
from webapp.dashboard.pages import LARGEST_BIG_ID, Blueprint, number_of, page
from webapp.dashboard.session import admins
from webapp.metering.ranges import RANGES
from webapp.services import services

blueprint = admins(Blueprint("audit", __name__))

SHOWN = 50
OFFERED = 300  # accounts that the filter completes to
# Actors that are no accounts: the command line, and the settings at start.
OTHER_ACTORS = ["cli", "settings"]


@blueprint.get("/audit")
def audit() -> Any:
    """Events, newest first, filtered by actor, action, target and time"""
    period, texts = read_filters(), _texts()
    before_id = number_of(request.args.get("before"), LARGEST_BIG_ID)
    log = services().audit
    found = log.latest(_wanted(period, texts), before_id=before_id, count=SHOWN + 1)
    events = found[:SHOWN]
    chosen = texts | {name: text for name, text in period.texts.items() if name in PERIOD}
    return page(
        "audit.html",
        events=[(event, _differences(event.before, event.after)) for event in events],
        names=log.names(events),
        link_of={event.target: _link_of(event) for event in events},
        older=events[-1].id if len(found) > SHOWN else None,
        before=before_id,
        chosen=chosen,
        ranges=RANGES.values(),
        actions=ACTIONS,
        actors=OTHER_ACTORS + [one.username for one in services().accounts.search(count=OFFERED)],
    )


def _texts() -> dict[str, str]:
    """The filters in the query that are set, without those of time."""
    sent = {name: request.args.get(name, "").strip() for name in ("actor", "action", "target")}
    return {name: text for name, text in sent.items() if text and "\0" not in text}


def _wanted(period: Filters, texts: dict[str, str]) -> EventFilter:
    window = RANGES[period.range] if period.range else None
    since = window.first if window else period.since
    until = window.first + window.length if window else period.until
    return EventFilter(
        targets=services().audit.targets_named(texts["target"]) if "target" in texts else None,
        actor=texts.get("actor"),
        action=texts.get("action"),
        since=None if since is None else datetime.fromtimestamp(since, UTC),
        until=None if until is None else datetime.fromtimestamp(until, UTC),
    )


def _link_of(event: Event) -> tuple[str, dict[str, Any]] | None:
    """The endpoint and the arguments of the page of what was changed."""
    target = event.target
    if target.startswith(KEY):
        return "keys.one", {"key_id": int(target.removeprefix(KEY))}
    if target.startswith(ACCOUNT):
        return "accounts.one", {"account_id": int(target.removeprefix(ACCOUNT))}
    if event.action.startswith(("batch.", "job.")):
        return "batch_pages.one", {"batch_id": target}
    return None


def _differences(
    before: dict[str, Any] | None, after: dict[str, Any] | None
) -> list[tuple[str, Any, Any]]:
    """(name, before, after) of each changed field; of a new object, of all its fields."""
    old, new = before or {}, after or {}
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    return [(name, old.get(name), new.get(name)) for name in names]
