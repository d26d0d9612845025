"""What every protected request passes, in this order: identity, then limits."""

from __future__ import annotations

from typing import Any, TypeVar, cast

from flask import Blueprint, g, request

from webapp.accounts.accounts import ADMIN, Account
from webapp.accounts.audit import Actor
from webapp.admission.credential_limits import count_failed_credential
from webapp.admission.deferred import deferred
from webapp.admission.identity import KEY_HEADERS, Principal, read_credential
from webapp.admission.limits import consume, peek
from webapp.admission.parts import parts
from webapp.current_request import current_request
from webapp.errors import AddressNotAllowed, NotAllowed, NotAuthenticated
from webapp.observability import tracing

PUBLIC = "weir_public"

AnyBlueprint = TypeVar("AnyBlueprint", bound=Blueprint)


def guard(blueprint: AnyBlueprint) -> AnyBlueprint:
    """Let only identified requests within their limits into the blueprint."""
    blueprint.before_request(_admit)
    return blueprint


def guard_without_counting(blueprint: AnyBlueprint) -> AnyBlueprint:
    """Let only identified requests into the blueprint; they consume nothing of any limit."""
    blueprint.before_request(_identify_only)
    return blueprint


def admins_only(blueprint: AnyBlueprint) -> AnyBlueprint:
    """Let only an administrator's token into the blueprint; it consumes nothing of any limit."""
    blueprint.before_request(_admit_admin)
    return blueprint


def public(blueprint: AnyBlueprint) -> AnyBlueprint:
    """Say that the blueprint needs no credential: every blueprint is guarded or public."""
    setattr(blueprint, PUBLIC, True)
    return blueprint


def credential_sent() -> bool:
    """Whether the request has a credential, good or bad."""
    return any(request.headers.get(name) for name in (*KEY_HEADERS, "Authorization"))


def identify() -> Principal:
    """The principal of this request, counting wrong credentials against its address."""
    request = current_request()
    address = request.remote_addr
    credential = read_credential(cast(Any, request.headers))
    try:
        principal = g.principal = parts().identities.identify(credential, address)
    except (NotAllowed, NotAuthenticated):
        count_failed_credential()
        raise
    if not principal.allowance.allows_address(address):
        raise AddressNotAllowed
    return principal


def _admit() -> None:
    if request.method == "OPTIONS":
        return
    if job := deferred():
        g.principal = job.principal
        return
    span = tracing.span("admission")
    try:
        with span.current():
            identify()
            consume()
    finally:
        span.end()
    g.admitted = True


def _admit_admin() -> None:
    if request.method != "OPTIONS":
        check_admin(identify())


def check_admin(principal: Principal) -> Account:
    """The administrator who asks. Raises NotAllowed."""
    if principal.account is None or not is_admin(principal):
        raise NotAllowed("Administrator token required. Get one from POST /token.")
    return principal.account


def is_admin(principal: Principal) -> bool:
    account = principal.account
    return account is not None and account.role == ADMIN and not principal.stale


def actor() -> Actor:
    """Who changes something by this request, for the audit log."""
    return Actor(check_admin(g.principal).username, request.remote_addr)


def _identify_only() -> None:
    if request.method == "OPTIONS":
        return
    identify()
    peek()
