"""Providers: health, circuit breakers, routes, usage by model, missing prices."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from webapp.dashboard.pages import Blueprint, page
from webapp.dashboard.session import admins
from webapp.metering.usage import Selection
from webapp.services import services

blueprint = admins(Blueprint("providers", __name__))

SHOWN_DAYS = 7
ORDER = ["open", "half-open", "closed"]


@blueprint.get("/providers")
def providers() -> Any:
    """Providers, routes and models"""
    today = datetime.now(UTC).date()
    week = Selection(today - timedelta(days=SHOWN_DAYS - 1), today)
    durations = services().calls.mean_milliseconds()
    used = [
        row | {"priced": row["unpriced"] == 0, "milliseconds": durations.get(_target(row))}
        for row in services().usage.report(week, ["model"])
    ]
    return page(
        "providers.html",
        states=states(ask=True),
        routes=services().gateway.router.routes,
        breakers=services().breakers.states(),
        used=sorted(used, key=lambda row: -row["calls"]),
        days=SHOWN_DAYS,
    )


def _target(row: dict[str, Any]) -> tuple[str, str]:
    return row["provider"], row["model"]


def states(*, ask: bool) -> list[dict[str, Any]]:
    """Each provider: name, kind, the error of its last call, its worst circuit breaker.

    With `ask`, providers without a recent call are probed, free of charge.
    """
    health = services().health.provider_errors(ask=ask)
    breakers = services().breakers.states()
    result = []
    for provider in services().gateway.router.providers:
        breaker_states = [
            state["state"] for target, state in breakers.items()
            if target.partition("/")[0] == provider.name
        ]  # fmt: skip
        result.append(
            {
                "name": provider.name,
                "kind": provider.kind,
                "error": health.get(provider.name),
                "breaker": min(breaker_states, key=ORDER.index, default="closed"),
            }
        )
    return result
