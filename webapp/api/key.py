"""GET /v1/key: the key of the request, and what is left of its limits and budgets."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from flask import g

from webapp import money
from webapp.admission import guard_without_counting, sessions
from webapp.admission.identity import Principal
from webapp.admission.limit_states import Decision
from webapp.admission.limits import details_of
from webapp.api import answers
from webapp.api.blueprint import Blueprint
from webapp.api.dialects import speaking
from webapp.api.dialects.openai import OPENAI
from webapp.api.openapi import ONE_OF_THEM, SESSION, openai_errors_of
from webapp.llm.calls import BillingContext
from webapp.llm.sessions import Session
from webapp.services import services

blueprint = speaking(
    OPENAI, guard_without_counting(Blueprint("key", __name__, description="The API key"))
)


@blueprint.get("/key")
@blueprint.doc(security=ONE_OF_THEM, parameters=[SESSION])
@openai_errors_of(400, 401, 429, 503)
@blueprint.response(200)
def key() -> dict[str, Any]:
    """Tier, limits, budgets and what is left of them; consumes nothing"""
    principal: Principal = g.principal
    session = sessions.of_request({})
    billing = replace(answers.billing_context(), session=sessions.billed(session))
    return {
        "object": "key",
        "name": principal.name,
        "key": principal.mask,
        "tier": principal.tier,
        "limits": limits_left(session),
        "budget": budgets_left(billing),
        "spend_usd": services().ledger.spent_of(g.principal.key_id),
    }


def budgets_left(billing: BillingContext) -> list[dict[str, Any]]:
    """The current budgets of this request's key and session, in USD; `reset` is in Unix seconds."""
    return [
        {
            "limit": budget.name,
            "size": money.to_usd(budget.limit),
            "used": money.to_usd(budget.spent),
            "reserved": money.to_usd(budget.reserved),
            "remaining": money.to_usd(max(0, budget.limit - budget.spent - budget.reserved)),
            "reset": budget.reset,
            **({} if budget.session is None else {"session": budget.session}),
        }
        for budget in services().ledger.budgets_of(billing)
    ]


def limits_left(session: Session) -> list[dict[str, Any]]:
    """The current limits of this request's key and session."""
    decision: Decision = g.decision
    of_key = [{**details_of(state), "remaining": state.remaining} for state in decision.states]
    return [*of_key, *sessions.limit_of(session)]
