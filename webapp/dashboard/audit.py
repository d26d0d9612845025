"""The audit log: who changed what, when, from which address."""

from __future__ import annotations

from typing import Any

from flask import request

from webapp.dashboard.pages import LARGEST_BIG_ID, Blueprint, number_of, page
from webapp.dashboard.session import admins
from webapp.services import services

blueprint = admins(Blueprint("audit", __name__))

SHOWN = 50


@blueprint.get("/audit")
def audit() -> Any:
    """Events, newest first"""
    target = request.args.get("target", "").replace("\0", "") or None
    before_id = number_of(request.args.get("before"), LARGEST_BIG_ID)
    events = services().audit.latest(target=target, before_id=before_id, count=SHOWN + 1)
    return page(
        "audit.html",
        events=[(event, _differences(event.before, event.after)) for event in events[:SHOWN]],
        older=events[SHOWN - 1].id if len(events) > SHOWN else None,
        target=target,
    )


def _differences(
    before: dict[str, Any] | None, after: dict[str, Any] | None
) -> list[tuple[str, Any, Any]]:
    """(name, before, after) of each changed field; of a new object, of all its fields."""
    old, new = before or {}, after or {}
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    return [(name, old.get(name), new.get(name)) for name in names]
