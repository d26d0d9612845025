"""GET /v1/key: the key of the request, and what is left of its limits and budgets."""

from __future__ import annotations

from typing import Any

from flask import g

from webapp import money
from webapp.admission import guard_without_counting
from webapp.admission.identity import Principal
from webapp.admission.limit_states import Decision
from webapp.admission.limits import details_of
from webapp.api import answers
from webapp.api.blueprint import Blueprint
from webapp.api.dialects import speaking
from webapp.api.dialects.openai import OPENAI
from webapp.api.openapi import ONE_OF_THEM, openai_errors_of
from webapp.services import services

blueprint = speaking(
    OPENAI, guard_without_counting(Blueprint("key", __name__, description="The API key"))
)


@blueprint.get("/key")
@blueprint.doc(security=ONE_OF_THEM)
@openai_errors_of(400, 401, 429, 503)
@blueprint.response(200)
def key() -> dict[str, Any]:
    """Tier, limits, budgets and what is left of them; consumes nothing"""
    principal: Principal = g.principal
    return {
        "object": "key",
        "name": principal.name,
        "key": principal.mask,
        "tier": principal.tier,
        "limits": limits_left(),
        "budget": budgets_left(),
        "spend_usd": services().ledger.spent_of(g.principal.key_id),
    }


def budgets_left() -> list[dict[str, Any]]:
    """The current budgets of this request's key, in USD; `reset` is in Unix seconds."""
    return [
        {
            "limit": budget.name,
            "size": money.to_usd(budget.limit),
            "used": money.to_usd(budget.spent),
            "reserved": money.to_usd(budget.reserved),
            "remaining": money.to_usd(max(0, budget.limit - budget.spent - budget.reserved)),
            "reset": budget.reset,
        }
        for budget in services().ledger.budgets_of(answers.billing_context())
    ]


def limits_left() -> list[dict[str, Any]]:
    """The current limits of this request's key."""
    decision: Decision = g.decision
    return [{**details_of(state), "remaining": state.remaining} for state in decision.states]
