"""Which keys a person may see and act as: administrators see all, members their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from webapp import money
from webapp.admission.identity import Principal
from webapp.admission.limits import details_of
from webapp.admission.rate_limits import limits_of
from webapp.dashboard.session import is_admin, user
from webapp.errors import NotFound
from webapp.metering.budgets import Budget
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


def visible_keys(
    *, state: str | None = None, after_id: int = 0, count: int | None = None
) -> list[Facts]:
    """The facts of the keys that this person may see, by id: in a state, so many after an id."""
    owner = None if is_admin() else user().username
    return services().key_changes.all(owner=owner, state=state, after_id=after_id, count=count)


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


def usage_bars(principal: Principal) -> list[Facts]:
    """Each limit and budget of a key: title, used, size, unit, when it resets (Unix seconds)."""
    return usage_bars_by_key([principal])[principal.key_id]


def usage_bars_by_key(principals: Sequence[Principal]) -> dict[int, list[Facts]]:
    """As bars_of(), by key id."""
    budgets = services().ledger.budgets_of_all([one.billing_context() for one in principals])
    return {
        one.key_id: [*_limits(one), *map(_budget, budgets.get(one.key_id, []))]
        for one in principals
    }


def _limits(principal: Principal) -> list[Facts]:
    decision = services().rate_limits.peek(principal.bucket, limits_of(principal.allowance))
    told = map(details_of, decision.states)
    return [_bar(one["limit"], one["used"], one["size"], one["reset"]) for one in told]


def _budget(budget: Budget) -> Facts:
    used, size = (budget.spent + budget.reserved) / money.NANO, budget.limit / money.NANO
    return _bar(f"USD a {budget.period}", used, size, budget.reset) | {"money": True}


def _bar(title: str, used: float, size: float, reset: int) -> Facts:
    share = min(1.0, used / size) if size else 1.0
    state = "full" if share >= 1 else "high" if share >= 0.8 else "low"
    figures = {"title": title, "used": used, "size": size, "reset": reset}
    return figures | {"share": share, "state": state, "money": False}
