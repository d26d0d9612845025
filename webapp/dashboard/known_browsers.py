"""Browsers that have signed in before: a signed cookie gives them a limit of their own.

Without it, whoever tries passwords from the same address would keep the owner of an account out.
The cookie is no credential: it only says whom an attempt to sign in counts for.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets

from flask import request
from itsdangerous import BadData, URLSafeTimedSerializer
from werkzeug.wrappers import Response

from webapp.services import services

COOKIE = "weir_browser"
COOKIE_TTL = 365 * 86_400  # seconds
MAX_ACCOUNTS = 5  # that a browser is remembered for; a cookie has 4 KiB at most


def id_for(username: str) -> str | None:
    """The id of this browser if it has signed in as this account before."""
    return _read().get(username.lower())


def remember(response: Response, username: str, path: str) -> None:
    """Let the browser prove from now on that it has signed in as this account."""
    known = _read()
    browser = known.pop(username, None) or secrets.token_urlsafe(16)
    kept = dict([*known.items(), (username, browser)][-MAX_ACCOUNTS:])
    response.set_cookie(
        COOKIE, _signer().dumps(kept), max_age=COOKIE_TTL, path=path, secure=request.is_secure,
        httponly=True, samesite="Lax",
    )  # fmt: skip


def _read() -> dict[str, str]:
    """The ids of this browser by account, oldest sign-in first; empty if the cookie is not ours."""
    try:
        known: dict[str, str] = _signer().loads(request.cookies.get(COOKIE, ""), COOKIE_TTL)
    except BadData:
        return {}
    return known


def _signer() -> URLSafeTimedSerializer:
    # Not the key that signs sessions: neither cookie can be used as the other.
    secret_key = services().settings.secret_key.encode()
    key = hmac.digest(secret_key, b"weir known browser", hashlib.sha256)
    return URLSafeTimedSerializer(key, signer_kwargs={"digest_method": hashlib.sha256})
