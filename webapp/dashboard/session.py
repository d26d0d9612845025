"""Sign in, sign out, and the signed-in account.

A session is a signed cookie with an id, the account's name and the generation of its tokens. Each
page compares the generation with the database, so "sign out everywhere" ends all sessions; signing
out ends all copies of this one.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any, TypeVar
from urllib.parse import quote, unquote, urlsplit

from flask import Flask, Request, Response, current_app, g, redirect, request, session, url_for
from flask.sessions import SecureCookieSession, SecureCookieSessionInterface
from flask_wtf.csrf import validate_csrf
from werkzeug.wrappers import Response as AnyResponse
from wtforms import ValidationError as BadToken

from webapp.accounts.accounts import ADMIN, Account
from webapp.accounts.audit import Actor
from webapp.admission.credential_limits import authenticate
from webapp.api.blueprint import FORM_BYTES, limit_body
from webapp.dashboard import known_browsers
from webapp.dashboard.pages import CLOCKS, THEMES, Blueprint, page
from webapp.errors import (
    NotAllowed,
    NotAuthenticated,
    NotFound,
    RateLimitExceeded,
    StoreUnavailable,
)
from webapp.services import services

View = TypeVar("View", bound=Callable[..., Any])

PATH = "/dashboard"
SESSION_TTL = timedelta(hours=12)
STREAMS_FORM = "weir_streams_form"
SAFE = {"GET", "HEAD", "OPTIONS"}
FORM_EXPIRED = "This form has expired. Go back, reload the page and try again."


def secret_of(secret_key: str) -> bytes:
    """The key that signs sessions. It differs from the JWT key, so neither can forge the other."""
    return hmac.digest(secret_key.encode(), b"weir session", hashlib.sha256)


def cookie_path() -> str:
    """The path of the dashboard as the browser sees it, below the sub-path of a proxy."""
    return request.script_root + PATH


class DashboardSessions(SecureCookieSessionInterface):
    """Signed cookie sessions for the dashboard only, so that they cost API requests no time."""

    digest_method = staticmethod(hashlib.sha256)

    def open_session(self, app: Flask, request: Request) -> SecureCookieSession | None:
        return super().open_session(app, request) if request.path.startswith(PATH) else None

    def get_cookie_name(self, app: Flask) -> str:
        return "weir_session"

    def get_cookie_path(self, app: Flask) -> str:
        return cookie_path()

    def get_cookie_samesite(self, app: Flask) -> str:
        return "Lax"

    def get_cookie_secure(self, app: Flask) -> bool:
        return request.is_secure


blueprint = Blueprint("session", __name__)


def members(pages: Blueprint) -> Blueprint:
    """Require a signed-in account, and a valid CSRF token for forms."""
    pages.before_request(_admit)
    return pages


def admins(pages: Blueprint) -> Blueprint:
    """Like members(), but only for administrators."""
    members(pages)
    pages.before_request(_admit_admin)
    return pages


def user() -> Account:
    """The signed-in account."""
    account: Account = g.user
    return account


def is_admin() -> bool:
    return user().role == ADMIN


def actor() -> Actor:
    """The actor of this request, for the audit log."""
    return Actor(user().username, request.remote_addr)


def streams_form(view: View) -> View:
    """Let a view read its form itself, as a stream; it gives check_csrf_token() the form's token
    before it does anything else."""
    setattr(view, STREAMS_FORM, True)
    return view


def check_csrf_token(token: str | None) -> None:
    """Raises NotAllowed."""
    try:
        validate_csrf(token)
    except BadToken:
        raise NotAllowed(FORM_EXPIRED) from None


def check_form() -> None:
    """Refuse a request without a valid CSRF token, or with a body over 64 KiB.

    Raises NotAllowed and PayloadTooLarge.
    """
    if request.method in SAFE:
        return
    limit_body(FORM_BYTES)
    check_csrf_token(request.headers.get("X-CSRF-Token") or request.form.get("csrf_token"))


def _admit() -> AnyResponse | None:
    account = _signed_in()
    if account is None:
        if request.method not in SAFE:
            raise NotAuthenticated("You are signed out. Sign in again.")
        here = quote(request.script_root + request.full_path.rstrip("?"))
        return redirect(url_for("session.sign_in") + f"?next={here}")
    g.user = account
    view = current_app.view_functions[request.endpoint] if request.endpoint else None
    if not getattr(view, STREAMS_FORM, False):
        check_form()
    return None


def _admit_admin() -> None:
    if not is_admin():
        raise NotFound


def _signed_in() -> Account | None:
    if session.get("ends_at", 0) <= time.time():
        return None
    account = services().accounts.find(session["username"], session["id"])
    if account is None or account.disabled_at is not None:
        return None
    return account if session.get("generation") == account.generation else None


@blueprint.get("/sign-in")
def sign_in() -> Any:
    """The sign-in form; redirects if already signed in."""
    if _signed_in():
        return redirect(_next())
    return page("sign_in.html", next=request.args.get("next", ""))


@blueprint.post("/sign-in")
def enter() -> Any:
    """Start a session with a username and a password."""
    check_form()
    username, password = request.form.get("username", ""), request.form.get("password", "")
    try:
        browser = known_browsers.id_for(username)
        account = authenticate(services().accounts, username, password, browser)
        error, status = "Wrong username or password.", 401
    except RateLimitExceeded as exceeded:
        account, status = None, 429
        error = f"Too many sign-in attempts. Try again in {exceeded.retry_after} s."
    if account is None:
        here = url_for("session.sign_in", next=_next())
        form = page("sign_in.html", next=_next(), here=here, error=error, username=username)
        form.status_code = status
        return form
    services().accounts.note_sign_in(account)
    start_session(account)
    response = redirect(_next())
    known_browsers.remember(response, account.username, cookie_path())
    return response


def start_session(account: Account) -> None:
    """Start a fresh session, against session fixation."""
    session.clear()
    session.permanent = True
    session.update(
        id=secrets.token_urlsafe(16),
        username=account.username,
        generation=account.generation,
        # Not the cookie's own time, which is renewed whenever the session changes.
        ends_at=int(time.time() + SESSION_TTL.total_seconds()),
    )


@blueprint.post("/sign-out")
def leave() -> AnyResponse:
    """End this session; with `everywhere` also all other sessions and tokens of the account."""
    check_form()
    account = _signed_in() if "everywhere" in request.form else None
    if account:
        services().accounts.sign_out(Actor(account.username, request.remote_addr), account.id)
    elif "id" in session:
        # Without the database this browser is signed out, and copies of its cookie follow later.
        with suppress(StoreUnavailable):
            services().ended_sessions.end(session["id"], session["ends_at"])
    session.clear()
    return redirect(url_for("session.sign_in"))


@blueprint.post("/theme")
def choose_theme() -> AnyResponse:
    """Choose the light, dark or system theme; stored in a cookie for a year."""
    return _choose("theme", THEMES)


@blueprint.post("/time")
def choose_time() -> AnyResponse:
    """Choose UTC or local time; stored like the theme."""
    return _choose("time", CLOCKS)


def _choose(name: str, choices: Sequence[str]) -> AnyResponse:
    check_form()
    wanted = request.form.get("next", "")
    response = redirect(wanted if _is_page(wanted) else url_for("overview.overview"))
    chosen = request.form.get(name, "")
    if chosen in choices:
        response.set_cookie(
            f"weir_{name}", chosen, max_age=31_536_000, path=cookie_path(),
            secure=request.is_secure, httponly=True, samesite="Lax",
        )  # fmt: skip
    return response


@blueprint.route("/<path:anything>")
def nowhere(anything: str) -> Response:
    g.user = _signed_in()
    raise NotFound


def _next() -> str:
    """Where to redirect after the sign-in: a page of the dashboard, never another site."""
    wanted = request.values.get("next", "")
    at_sign_in = not _is_page(wanted) or "/sign-in" in urlsplit(wanted).path
    return url_for("overview.overview") if at_sign_in else wanted


def _is_page(wanted: str) -> bool:
    """Whether this is an address of the dashboard, and not of another site."""
    try:
        parts = urlsplit(wanted)
    except ValueError:
        return False
    same_site = not parts.scheme and not parts.netloc and parts.path.startswith(f"{cookie_path()}/")
    # Browsers read \ as / and %2e as a dot.
    stays = "\\" not in wanted and ".." not in unquote(parts.path)
    return same_site and stays and wanted.isprintable()
