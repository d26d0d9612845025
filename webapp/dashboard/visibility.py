"""Which keys a user can see and use: administrators see all, members their own."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Any

from flask import url_for

from webapp import money
from webapp.admission.identity import Principal
from webapp.admission.limit_states import Decision, limits_of
from webapp.admission.limits import details_of
from webapp.dashboard.session import is_admin, user
from webapp.errors import NotFound
from webapp.metering.budgets import Budget
from webapp.metering.price import Price
from webapp.metering.prompt_caches import CachedInput, cached_inputs
from webapp.services import services

JsonObject = dict[str, Any]


def visible_ids() -> set[int] | None:
    """The ids of the keys whose traffic this user can see; None means all."""
    return None if is_admin() else own_ids()


def own_ids() -> set[int]:
    """The user's keys, revoked ones too, and the key of the account's own tokens."""
    return {user().key.id} | {key["id"] for key in own_keys()}


def own_keys() -> list[JsonObject]:
    return services().key_listing.all(owner=user().username)


def visible_keys(
    *, state: str | None = None, after_id: int = 0, count: int | None = None
) -> list[JsonObject]:
    """The keys that this user can see, by id; `after_id` and `count` select a page."""
    owner = None if is_admin() else user().username
    return services().key_listing.all(owner=owner, state=state, after_id=after_id, count=count)


def visible_key(key_id: int) -> JsonObject:
    """A key as a dict. Raises NotFound also for a key of another user."""
    key = services().key_listing.show(key_id)
    if not is_admin() and key["owner"] != user().username:
        raise NotFound(f"Key {key_id} not found.")
    return key


def names_of_keys() -> dict[int, str]:
    """The name of each visible key; an account's own key has the account's name."""
    names = {key["id"]: key["name"] for key in visible_keys()}
    accounts = services().accounts.all() if is_admin() else [user()]
    return names | {account.key.id: f"account {account.username}" for account in accounts}


def url_of_key(key_id: int) -> str:
    """The page of a key; of an account's own key, that of the account."""
    if key_id == user().key.id:
        return url_for("me.me")
    accounts = services().accounts.all() if is_admin() else []
    for account in accounts:
        if account.key.id == key_id:
            return url_for("accounts.one", account_id=account.id)
    return url_for("keys.one", key_id=key_id)


def cached_inputs_of(
    days: int, key_ids: Collection[int] | None, last: date | None = None
) -> list[CachedInput]:
    """What the providers' caches knew of the input of these keys, or of all, in so many UTC days
    until the last one, which is today by default."""
    last = last or datetime.now(UTC).date()
    rows = services().overview.inputs(last - timedelta(days=days - 1), last, key_ids)
    return cached_inputs(rows, price_finder())


def price_finder() -> Callable[[str, str], Price | None]:
    """Finds the present price of a provider's model."""
    kinds = {provider.name: provider.kind for provider in services().gateway.router.providers}

    def price_of(provider: str, model: str) -> Price | None:
        return services().prices.of(provider, kinds.get(provider, ""), model)

    return price_of


def usage_bars(principal: Principal) -> list[JsonObject]:
    """Each limit and budget of a key: title, used, size, unit, when it resets (Unix seconds)."""
    return usage_bars_by_key([principal])[principal.key_id]


def usage_bars_by_key(principals: Sequence[Principal]) -> dict[int, list[JsonObject]]:
    """Like usage_bars(), by key id."""
    billings = [principal.billing_context() for principal in principals]
    budgets = services().ledger.budgets_of_all(billings)
    decisions = _decisions(principals)
    return {
        principal.key_id: [
            *_limits(decisions[principal.bucket]),
            *map(_budget, budgets.get(principal.key_id, [])),
        ]
        for principal in principals
    }


def _decisions(principals: Sequence[Principal]) -> dict[str, Decision]:
    by_day = [one for one in principals if one.allowance.requests_per_day is not None]
    ids = [one.key_id for one in by_day]
    counted = services().traffic.all_counted_today(ids) if ids else {}
    return services().rate_limits.peek_all(
        {one.bucket: limits_of(one.allowance) for one in principals},
        {one.bucket: counted[one.key_id] for one in by_day},
    )


def _limits(decision: Decision) -> list[JsonObject]:
    bars = []
    for state in map(details_of, decision.states):
        # That of parallel requests frees a place whenever one ends.
        reset = None if state["limit"] == "parallel_requests" else state["reset"]
        bars.append(_bar(_title(state["limit"]), state["used"], state["size"], reset))
    return bars


@lru_cache(1_000)
def _title(limit: str) -> str:
    """`Requests per day` of `requests_per_day`, `Requests per minute` of `5 per 1 minute`."""
    if found := re.fullmatch(r"\d+ per (\d+) (\w+)", limit):
        count, unit = found.groups()
        return f"Requests per {unit}" if count == "1" else f"Requests per {count} {unit}s"
    return limit.replace("_", " ").capitalize()


def _budget(budget: Budget) -> JsonObject:
    used, size = (budget.spent + budget.reserved) / money.NANO, budget.limit / money.NANO
    return _bar(f"USD per {budget.period}", used, size, budget.reset) | {"money": True}


def _bar(title: str, used: float, size: float, reset: int | None) -> JsonObject:
    share = min(1.0, used / size) if size else 1.0
    state = "full" if share >= 1 else "high" if share >= 0.8 else "low"
    figures = {"title": title, "used": used, "size": size, "reset": reset}
    return figures | {"share": share, "state": state, "money": False}
