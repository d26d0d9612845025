"""Accounts, for administrators: list, create, change role or tier, reset password, disable."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from flask import redirect, request, url_for

from webapp.accounts.accounts import ROLES, Account
from webapp.dashboard.pages import Blueprint, page
from webapp.dashboard.session import actor, admins
from webapp.errors import Conflict, ValidationError, WeirError
from webapp.metering.ranges import RANGES
from webapp.services import services

blueprint = admins(Blueprint("accounts", __name__))

LISTED = 50


@blueprint.get("/accounts")
def all_accounts() -> Any:
    """Accounts by username, found by a part of it, and the form to create one"""
    return _list()


@blueprint.post("/accounts")
def create() -> Any:
    """Create an account"""
    form = request.form
    try:
        account = services().accounts.create(
            actor(),
            form.get("username", "").strip(),
            form.get("password", ""),
            role=form.get("role", ""),
            tier=form.get("tier", ""),
        )
    except ValidationError as error:
        return _list(error, _errors_of(error))
    except Conflict as error:
        return _list(error, {"username": error.message})
    return redirect(url_for("accounts.one", account_id=account.id, saved="account"))


@blueprint.get("/accounts/<int:account_id>")
def one(account_id: int) -> Any:
    """One account"""
    return _show(account_id)


@blueprint.post("/accounts/<int:account_id>")
def change(account_id: int) -> Any:
    """Change role or tier, enable or disable"""
    form = request.form
    disabled = "disabled" in form
    account = services().accounts.get(account_id)
    changes: dict[str, Any] = {"role": form.get("role", ""), "tier": form.get("tier", "")}
    if disabled != (account.disabled_at is not None):
        changes["disabled"] = disabled
    try:
        services().accounts.change(actor(), account_id, changes)
    except (ValidationError, Conflict) as error:
        return _show(account_id, error)
    return redirect(url_for("accounts.one", account_id=account_id, saved="account"))


@blueprint.post("/accounts/<int:account_id>/password")
def set_password(account_id: int) -> Any:
    """Reset the password; ends the account's sessions and tokens"""
    try:
        services().accounts.set_password(actor(), account_id, request.form.get("password", ""))
    except ValidationError as error:
        return _show(account_id, error)
    return redirect(url_for("accounts.one", account_id=account_id, saved="password"))


def _list(error: WeirError | None = None, errors: dict[str, str] | None = None) -> Any:
    part, after = (request.args.get(name, "").replace("\0", "") for name in ("q", "after"))
    found = services().accounts.search(part.strip(), after=after, count=LISTED + 1)
    shown = found[:LISTED]
    response = page(
        "accounts.html",
        accounts=shown,
        more=len(found) > LISTED,
        part=part.strip(),
        after=after,
        **_usage(shown),
        roles=ROLES,
        tiers=list(services().settings.tiers),
        errors=errors or {},
        entered=request.form if error else {},
    )
    response.status_code = error.status if error else 200
    return response


def _show(account_id: int, error: WeirError | None = None) -> Any:
    account = services().accounts.get(account_id)
    response = page(
        "account.html",
        account=account,
        saved=request.args.get("saved"),
        **_usage([account]),
        roles=ROLES,
        tiers=list(services().settings.tiers),
        error=error if isinstance(error, Conflict) else None,
        errors=_errors_of(error),
    )
    response.status_code = error.status if error else 200
    return response


def _usage(accounts: Collection[Account]) -> dict[str, dict[int, Any]]:
    """By account id: how many keys it owns, and the cost of these and of its own key."""
    owned = services().accounts.owned_keys([account.id for account in accounts])
    keys = {account.id: {account.key.id, *owned.get(account.id, ())} for account in accounts}
    totals = services().overview.by_key(RANGES["30d"], set().union(*keys.values()))
    costs = {
        account_id: sum(totals[key_id].cost_nano for key_id in key_ids if key_id in totals)
        for account_id, key_ids in keys.items()
    }
    return {"key_counts": {one: len(key_ids) - 1 for one, key_ids in keys.items()}, "costs": costs}


def _errors_of(error: WeirError | None) -> dict[str, str]:
    """The messages by field."""
    details = (error.details or {}) if isinstance(error, ValidationError) else {}
    return {name: " ".join(messages) for name, messages in details.items()}
