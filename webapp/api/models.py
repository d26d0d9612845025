"""GET /v1/models and /v1/models/{id}: the models of a key, in OpenAI's format."""

from __future__ import annotations

from typing import Any

from flask import g

from webapp.admission import guard_without_counting
from webapp.admission.identity import Principal
from webapp.api.blueprint import Blueprint, openai_endpoint
from webapp.api.openapi import ONE_OF_THEM, openai_errors_of
from webapp.errors import ModelNotFound
from webapp.services import services

blueprint = openai_endpoint(
    guard_without_counting(Blueprint("models", __name__, description="OpenAI's API: models"))
)


@blueprint.get("/models")
@blueprint.doc(security=ONE_OF_THEM)
@openai_errors_of(400, 401, 429, 503)
@blueprint.response(200)
def models() -> dict[str, Any]:
    """List the models that this key can use"""
    return {"object": "list", "data": _listed()}


@blueprint.get("/models/<model_name:model_id>")
@blueprint.doc(security=ONE_OF_THEM)
@openai_errors_of(400, 401, 404, 429, 503)
@blueprint.response(200)
def model(model_id: str) -> dict[str, Any]:
    """Get one model; its id may contain slashes, and begin and end with them"""
    listed = {listed["id"]: listed for listed in _listed()}
    found = listed.get(model_id) or listed.get(model_id.strip("/"))
    if found is None:
        raise ModelNotFound(f"Model {model_id!r} not found. See GET /v1/models.")
    return found


def _listed() -> list[dict[str, Any]]:
    principal: Principal = g.principal
    router = services().gateway.router
    return [
        {"id": name, "object": "model", "created": created, "owned_by": owner}
        for name, owner, created in router.names()
        if principal.allowance.allows_model(*router.resolve(name).names)
    ]
