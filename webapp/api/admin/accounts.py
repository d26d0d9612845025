"""/admin/accounts: list, create and change accounts."""

from __future__ import annotations

from typing import Any

from webapp.admission import actor, admins_only
from webapp.api.admin.schemas import (
    AccountAnswer,
    AccountChangesBody,
    AccountList,
    NewAccountBody,
    PasswordBody,
)
from webapp.api.blueprint import Blueprint
from webapp.api.openapi import ADMIN, errors_of
from webapp.services import services

blueprint = admins_only(Blueprint("admin_accounts", __name__, description="Accounts"))

EXAMPLE = {"username": "ada", "password": "a long pass phrase", "role": "member", "tier": "premium"}


@blueprint.get("/accounts")
@blueprint.doc(security=ADMIN)
@errors_of(401, 403, 503)
@blueprint.response(200, AccountList)
def list_all() -> dict[str, Any]:
    """List all accounts"""
    return {"accounts": [account.to_dict() for account in services().accounts.all()]}


@blueprint.post("/accounts")
@blueprint.doc(security=ADMIN)
@errors_of(400, 401, 403, 409, 415, 422, 503)
@blueprint.arguments(NewAccountBody(), example=EXAMPLE)
@blueprint.response(201, AccountAnswer)
def create(body: dict[str, Any]) -> dict[str, Any]:
    """Create an account"""
    return services().accounts.create(actor(), **body).to_dict()


@blueprint.get("/accounts/<int:account_id>")
@blueprint.doc(security=ADMIN)
@errors_of(401, 403, 404, 503)
@blueprint.response(200, AccountAnswer)
def show(account_id: int) -> dict[str, Any]:
    """Get an account"""
    return services().accounts.get(account_id).to_dict()


@blueprint.patch("/accounts/<int:account_id>")
@blueprint.doc(security=ADMIN)
@errors_of(400, 401, 403, 404, 409, 415, 422, 503)
@blueprint.arguments(AccountChangesBody(), example={"tier": "enterprise"})
@blueprint.response(200, AccountAnswer)
def change(body: dict[str, Any], account_id: int) -> dict[str, Any]:
    """Change role, tier or limits; disable or enable an account"""
    return services().accounts.change(actor(), account_id, body).to_dict()


@blueprint.post("/accounts/<int:account_id>/password")
@blueprint.doc(security=ADMIN)
@errors_of(400, 401, 403, 404, 415, 422, 503)
@blueprint.arguments(PasswordBody(), example={"password": "another long pass phrase"})
@blueprint.response(204)
def set_password(body: dict[str, Any], account_id: int) -> None:
    """Set the password; revokes all tokens of the account"""
    services().accounts.set_password(actor(), account_id, body["password"])


@blueprint.post("/accounts/<int:account_id>/sign-out")
@blueprint.doc(security=ADMIN)
@errors_of(401, 403, 404, 503)
@blueprint.response(204)
def sign_out(account_id: int) -> None:
    """Revoke all tokens of an account"""
    services().accounts.sign_out(actor(), account_id)
