"""The playground: a chat with one of the user's own keys, without its secret."""

from __future__ import annotations

from typing import Any

from flask import g, request

from webapp.admission.limits import consume
from webapp.api import answers
from webapp.api.blueprint import MEBIBYTE, limit_body, read_json, validated
from webapp.api.chat import describe, to_model_request
from webapp.api.schemas import ChatBody
from webapp.dashboard.pages import Blueprint, page
from webapp.dashboard.session import members, user
from webapp.dashboard.visibility import JsonObject, own_ids, own_keys, usage_bars
from webapp.errors import AddressNotAllowed, NotFound, WeirError
from webapp.observability import request_context
from webapp.services import services

blueprint = members(Blueprint("playground", __name__))

LISTED = 200
ENDPOINT = "/dashboard/playground"


@blueprint.get("/playground")
def playground() -> Any:
    """Try a prompt"""
    return page(
        "playground.html",
        keys=_usable(),
        models=_models(),
        base_url=request.url_root.rstrip("/"),
    )


@blueprint.post("/playground/<int:key_id>")
def chat(key_id: int) -> Any:
    """POST /chat with this key, its limits and its budget"""
    limit_body(MEBIBYTE)
    principal = services().identities.of_key_id(key_id) if key_id in own_ids() else None
    if principal is None:
        raise NotFound("This key does not belong to you, or is no longer active.")
    if not principal.allowance.allows_address(request.remote_addr):
        raise AddressNotAllowed
    g.principal = principal
    request_context.current().endpoint = ENDPOINT
    body = validated(ChatBody(), read_json())
    consume()
    g.admitted = True
    return answers.native(to_model_request(body), describe)


@blueprint.get("/playground/<int:key_id>/bars")
def bars(key_id: int) -> Any:
    """The usage bars of this key"""
    principal = services().identities.of_key_id(key_id) if key_id in own_ids() else None
    return page("bars.html", bars=usage_bars(principal) if principal else [])


def _usable() -> list[JsonObject]:
    """The keys to choose from; the account's own comes first."""
    account = user()
    own = {"id": account.key.id, "name": f"account {account.username}", "tier": account.key.tier}
    return [own, *(key for key in own_keys() if key["state"] == "works")]


def _models() -> list[str]:
    try:
        names = [model.name for model in services().gateway.router.names()]
    except WeirError:
        return []
    return names[:LISTED]
