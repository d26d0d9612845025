"""/admin/keys: list, create, change, rotate and revoke API keys."""

from __future__ import annotations

from typing import Any

from flask import request

from webapp.accounts.key_changes import NewKey
from webapp.admission import actor, admins_only
from webapp.api.admin.schemas import (
    IncreaseBody,
    KeyAnswer,
    KeyChangesBody,
    KeyList,
    KeyQuery,
    NewKeyAnswer,
    NewKeyBody,
    RotateBody,
)
from webapp.api.blueprint import Blueprint, validated
from webapp.api.openapi import ADMIN, errors_of, query_of
from webapp.services import services

blueprint = admins_only(Blueprint("admin_keys", __name__, description="API keys"))

EXAMPLE = {"name": "shop", "tier": "premium", "limits": {"usd_per_month": 20}}
# For responses with a secret.
NO_STORE = {"Cache-Control": "no-store"}


@blueprint.get("/keys")
@blueprint.doc(security=ADMIN, parameters=query_of(KeyQuery))
@errors_of(401, 403, 422, 503)
@blueprint.response(200, KeyList)
def list_all() -> dict[str, Any]:
    """List keys by id, without their secrets"""
    query = validated(KeyQuery(), request.args.to_dict())
    keys = services().key_listing.all(
        owner=query["owner"],
        origin=query["origin"],
        state=query["state"],
        after_id=query["after"],
        count=query["limit"],
    )
    return {"keys": keys}


@blueprint.post("/keys")
@blueprint.doc(security=ADMIN)
@errors_of(400, 401, 403, 409, 415, 422, 503)
@blueprint.arguments(NewKeyBody(), example=EXAMPLE)
@blueprint.response(201, NewKeyAnswer)
def create(body: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Create a key; its secret is returned only here"""
    key, secret = services().key_changes.create(actor(), NewKey(**body))
    return key | {"secret": secret}, NO_STORE


@blueprint.get("/keys/<int:key_id>")
@blueprint.doc(security=ADMIN)
@errors_of(401, 403, 404, 503)
@blueprint.response(200, KeyAnswer)
def show(key_id: int) -> dict[str, Any]:
    """Get a key, with its masked secrets"""
    return services().key_listing.show(key_id)


@blueprint.patch("/keys/<int:key_id>")
@blueprint.doc(security=ADMIN)
@errors_of(400, 401, 403, 404, 409, 415, 422, 503)
@blueprint.arguments(KeyChangesBody(), example={"limits": {"requests_per_day": 1000}})
@blueprint.response(200, KeyAnswer)
def change(body: dict[str, Any], key_id: int) -> dict[str, Any]:
    """Change name, tier, owner, expiry or limits"""
    return services().key_changes.change(actor(), key_id, body)


@blueprint.post("/keys/<int:key_id>/rotate")
@blueprint.doc(security=ADMIN)
@errors_of(400, 401, 403, 404, 409, 415, 422, 503)
@blueprint.arguments(RotateBody(), example={"grace": 3600})
@blueprint.response(200, NewKeyAnswer)
def rotate(body: dict[str, Any], key_id: int) -> tuple[dict[str, Any], dict[str, str]]:
    """Rotate the secret; the old one stays valid for the grace period (seconds)"""
    key, secret = services().key_changes.rotate(actor(), key_id, body["grace"])
    return key | {"secret": secret}, NO_STORE


@blueprint.post("/keys/<int:key_id>/budget-increase")
@blueprint.doc(security=ADMIN)
@errors_of(400, 401, 403, 404, 409, 415, 422, 503)
@blueprint.arguments(IncreaseBody(), example={"usd": 5, "until": "2099-01-31T00:00:00Z"})
@blueprint.response(200, KeyAnswer)
def increase_budget(body: dict[str, Any], key_id: int) -> dict[str, Any]:
    """Increase each budget temporarily; 0 ends the increase"""
    return services().key_changes.increase_budget(actor(), key_id, body["usd"], body["until"])


@blueprint.post("/keys/<int:key_id>/revoke")
@blueprint.doc(security=ADMIN)
@errors_of(401, 403, 404, 409, 503)
@blueprint.response(200, KeyAnswer)
def revoke(key_id: int) -> dict[str, Any]:
    """Revoke a key permanently; it is refused everywhere within 5 seconds"""
    return services().key_changes.revoke(actor(), key_id)
