"""Which keys a person may see and act as: administrators see all, members their own."""

from __future__ import annotations

from typing import Any

from webapp import money
from webapp.dashboard.session import is_admin, user
from webapp.errors import NotFound
from webapp.gate.identity import Principal
from webapp.gate.limits import details_of
from webapp.gate.windows import limits_of
from webapp.llm.ports import Payer
from webapp.services import services

Facts = dict[str, Any]


def visible_ids() -> set[int] | None:
    """The ids of the keys whose traffic this person may see; None means all."""
    return None if is_admin() else own_ids()


def own_ids() -> set[int]:
    """The person's keys, revoked ones too, and the key as which the account's tokens act."""
    return {user().key.id} | {key["id"] for key in own_keys()}


def own_keys() -> list[Facts]:
    return services().key_changes.all(owner=user().username)


def visible_keys() -> list[Facts]:
    """The facts of the keys that this person may see."""
    return services().key_changes.all() if is_admin() else own_keys()


def visible_key(key_id: int) -> Facts:
    """The facts of a key. Raises NotFound also where it is somebody else's."""
    facts = services().key_changes.show(key_id)
    if not is_admin() and facts["owner"] != user().username:
        raise NotFound(f"There is no key {key_id}.")
    return facts


def names_of_keys() -> dict[int, str]:
    """How each visible key is called; the one of the account itself by the account's name."""
    names = {key["id"]: key["name"] for key in visible_keys()}
    accounts = services().accounts.all() if is_admin() else [user()]
    return names | {one.key.id: f"account {one.username}" for one in accounts}


def bars_of(principal: Principal) -> list[Facts]:
    """Each limit and budget of a key: title, used, size, unit, when it resets (Unix seconds)."""
    verdict = services().windows.look(principal.bucket, limits_of(principal.allowance))
    bars = [
        {
            "title": window["limit"],
            "used": window["used"],
            "size": window["size"],
            "money": False,
            "reset": window["reset"],
        }
        for window in map(details_of, verdict.windows)
    ]
    for budget in services().ledger.budgets_of(payer_of(principal)):
        bars.append(
            {
                "title": f"USD a {budget.period}",
                "used": money.to_usd(budget.spent + budget.reserved),
                "size": money.to_usd(budget.limit),
                "money": True,
                "reset": budget.reset,
            }
        )
    for bar in bars:
        bar["share"] = min(1.0, bar["used"] / bar["size"]) if bar["size"] else 1.0
        bar["state"] = "full" if bar["share"] >= 1 else "high" if bar["share"] >= 0.8 else "low"
    return bars


def payer_of(principal: Principal) -> Payer:
    allowance = principal.allowance
    return Payer(
        principal.key_id, "", "", allowance.usd_per_day, allowance.usd_per_month,
        allowance.tokens_per_minute,
    )  # fmt: skip
