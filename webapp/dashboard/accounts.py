"""Accounts, for administrators: list, create, change role or tier, reset password, disable."""

from __future__ import annotations

from typing import Any

from flask import redirect, request, url_for

from webapp.accounts.accounts import ROLES
from webapp.dashboard.pages import Blueprint, page
from webapp.dashboard.session import actor, admins
from webapp.errors import Conflict, ValidationError, WeirError
from webapp.services import services

blueprint = admins(Blueprint("accounts", __name__))


@blueprint.get("/accounts")
def all_accounts() -> Any:
    """All accounts, and the form to create one"""
    return _list()


@blueprint.post("/accounts")
def create() -> Any:
    """Create an account"""
    form = request.form
    try:
        services().accounts.create(
            actor(),
            form.get("username", "").strip(),
            form.get("password", ""),
            role=form.get("role", ""),
            tier=form.get("tier", ""),
        )
    except (ValidationError, Conflict) as error:
        return _list(error)
    return redirect(url_for("accounts.all_accounts"))


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
    return redirect(url_for("accounts.all_accounts"))


@blueprint.post("/accounts/<int:account_id>/password")
def set_password(account_id: int) -> Any:
    """Reset the password; ends the account's sessions and tokens"""
    try:
        services().accounts.set_password(actor(), account_id, request.form.get("password", ""))
    except ValidationError as error:
        return _show(account_id, error)
    return redirect(url_for("accounts.all_accounts"))


def _list(error: WeirError | None = None) -> Any:
    response = page(
        "accounts.html",
        accounts=services().accounts.all(),
        roles=ROLES,
        tiers=list(services().settings.tiers),
        error=error,
        entered=request.form if error else {},
    )
    response.status_code = error.status if error else 200
    return response


def _show(account_id: int, error: WeirError | None = None) -> Any:
    response = page(
        "account.html",
        account=services().accounts.get(account_id),
        roles=ROLES,
        tiers=list(services().settings.tiers),
        error=error,
    )
    response.status_code = error.status if error else 200
    return response
