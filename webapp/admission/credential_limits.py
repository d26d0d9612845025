"""Flask-Limiter's own limits, on what needs no tier: wrong credentials, signing in, public pages,
tests of a provider's connection.

They decorate what is called once it is known whom to count. A credential is counted after it has
failed, so a valid one is never refused for its address; an attempt to sign in is counted before its
password is looked at, so that passwords cannot be tried out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import NoReturn

from flask import g, request
from flask_limiter import RequestLimit

from webapp.accounts.accounts import Account, AccountStore
from webapp.admission.limits import exceeded
from webapp.extensions import limiter
from webapp.forwarded import network_of


def _address() -> str:
    return network_of(request.remote_addr)


def _account_and_address() -> str:
    name: str = g.attempted_username
    hashed = hashlib.sha256(name.lower().encode("utf-8", "surrogatepass")).hexdigest()
    return f"{hashed}-{_address()}"


def _browser() -> str:
    browser: str = g.attempting_browser
    return browser


def _refuse(whose: str) -> Callable[[RequestLimit], NoReturn]:
    """Raises RateLimitExceeded where Flask-Limiter finds a limit used up."""

    def refuse(breached: RequestLimit) -> NoReturn:
        raise exceeded(g.attempt, whose)

    return refuse


@limiter.shared_limit(
    "30/minute",
    scope="failed",
    key_func=_address,
    on_breach=_refuse("invalid credentials from this IP address"),
)
def count_failed_credential() -> None:
    """Count a wrong credential against the address of the request. Raises RateLimitExceeded."""


@limiter.shared_limit(
    "60/minute",
    scope="stats",
    key_func=_address,
    on_breach=_refuse("requests without a credential from this IP address"),
)
def count_public_stats() -> None:
    """Count a request of /stats without a credential. Raises RateLimitExceeded."""


def _tested_provider() -> str:
    provider: str = g.tested_provider
    return provider


def count_connection_test(provider: str) -> None:
    """Count a test of the connection to a provider. Raises RateLimitExceeded."""
    g.tested_provider = provider
    _count_connection_test()


@limiter.shared_limit(
    "6/minute",
    scope="connection-test",
    key_func=_tested_provider,
    on_breach=_refuse("connection tests of this provider"),
)
def _count_connection_test() -> None: ...


def authenticate(
    accounts: AccountStore, username: str, password: str, browser: str | None = None
) -> Account | None:
    """The account with this username and password. Raises RateLimitExceeded.

    `browser` is the id of a browser that has signed in as this account before. It has a limit of
    its own: neither strangers nor others at its address can use it up.
    """
    g.attempted_username, g.attempting_browser = username, browser
    attempt = _authenticate_known if browser else _authenticate
    return attempt(accounts, username, password)


# The innermost is counted first, and a limit behind one that is used up is not counted at all: an
# address that tries many names leaves no key in Redis for each.
@limiter.shared_limit(
    "10/minute",
    scope="login",
    key_func=_account_and_address,
    on_breach=_refuse("sign-in attempts"),
)
@limiter.shared_limit(
    "30/minute", scope="login", key_func=_address, on_breach=_refuse("sign-in attempts")
)
def _authenticate(accounts: AccountStore, username: str, password: str) -> Account | None:
    return accounts.authenticate(username, password)


# Whoever has several such cookies of an account, from one address, has no more than an address has.
@limiter.shared_limit(
    "30/minute",
    scope="login-known-address",
    key_func=_account_and_address,
    on_breach=_refuse("sign-in attempts"),
)
@limiter.shared_limit(
    "10/minute", scope="login-known", key_func=_browser, on_breach=_refuse("sign-in attempts")
)
def _authenticate_known(accounts: AccountStore, username: str, password: str) -> Account | None:
    return accounts.authenticate(username, password)
