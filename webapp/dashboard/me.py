"""My account: limits, change password, sign out everywhere."""

from __future__ import annotations

from typing import Any

from flask import redirect, request, url_for

from webapp.admission.credential_limits import authenticate
from webapp.dashboard import known_browsers
from webapp.dashboard.pages import Blueprint, page
from webapp.dashboard.session import actor, members, start_session, user
from webapp.dashboard.visibility import usage_bars
from webapp.errors import RateLimitExceeded, ValidationError
from webapp.services import services

blueprint = members(Blueprint("me", __name__))


@blueprint.get("/me")
def me() -> Any:
    """The signed-in account"""
    return _show()


@blueprint.post("/me/password")
def change_password() -> Any:
    """Change the password; ends all other sessions and all tokens"""
    form, account = request.form, user()
    browser = known_browsers.id_for(account.username)
    try:
        confirmed = authenticate(
            services().accounts, account.username, form.get("current", ""), browser
        )
    except RateLimitExceeded as exceeded:
        wait = f"Too many attempts. Try again in {exceeded.retry_after} s."
        return _show({"current": wait}, 429)
    if confirmed is None:
        return _show({"current": "The current password is wrong."}, 403)
    if form.get("new") != form.get("again"):
        return _show({"again": "The new passwords do not match."}, 422)
    try:
        services().accounts.set_password(actor(), account.id, form.get("new", ""))
    except ValidationError as error:
        return _show({"new": (error.details or {}).get("password", [error.message])[0]}, 422)
    start_session(services().accounts.get(account.id))
    return redirect(url_for("me.me", changed=1))


def _show(errors: dict[str, str] | None = None, status: int = 200) -> Any:
    principal = services().identities.of_key_id(user().key.id)
    response = page(
        "me.html",
        account=user(),
        bars=usage_bars(principal) if principal else [],
        errors=errors or {},
        changed="changed" in request.args,
    )
    response.status_code = status
    return response
