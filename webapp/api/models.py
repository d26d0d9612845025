"""GET /v1/models and /v1/models/{id}: the models of a key, as OpenAI or Anthropic lists them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from flask import g, request
from marshmallow import Schema, fields, validate

from webapp.admission import guard_without_counting
from webapp.admission.identity import Principal
from webapp.api import dialects
from webapp.api.blueprint import Blueprint, validated
from webapp.api.dialects import speaking
from webapp.api.dialects.anthropic import ANTHROPIC
from webapp.api.dialects.openai import OPENAI
from webapp.api.openapi import ONE_OF_THEM, openai_errors_of, query_of
from webapp.errors import ModelNotFound, ValidationError
from webapp.llm.routing import ANTHROPICS_OPERATION, NamedModel, Route
from webapp.services import services

# What providers call these in their lists.
CONTEXT_NAMES = ("max_input_tokens", "context_window", "context_length", "max_model_len")
OUTPUT_NAMES = ("max_output_tokens", "max_completion_tokens")

blueprint = speaking(
    OPENAI,
    guard_without_counting(Blueprint("models", __name__, description="OpenAI's API: models")),
    or_anthropic=True,
)


class Page(Schema):
    """The part of Anthropic's list that is asked for. Other parameters are ignored."""

    limit = fields.Integer(
        load_default=20,
        validate=validate.Range(1, 1000),
        metadata={"description": "With `anthropic-version`: how many models a page has (20)."},
    )
    after_id = fields.String(
        load_default=None, metadata={"description": "With `anthropic-version`: those after it."}
    )
    before_id = fields.String(
        load_default=None, metadata={"description": "With `anthropic-version`: those before it."}
    )


VERSION = {
    "name": "anthropic-version",
    "in": "header",
    "required": False,
    "schema": {"type": "string"},
    "description": "A client that sends it is answered in Anthropic's format.",
}


@dataclass(frozen=True, slots=True)
class UsableModel:
    """A model that a key can use. The limits are in tokens; None where they are not known."""

    named: NamedModel
    context: int | None
    max_output: int | None


@blueprint.get("/models")
@blueprint.doc(security=ONE_OF_THEM, parameters=[VERSION, *query_of(Page)])
@openai_errors_of(400, 401, 429, 503)
@blueprint.response(200)
def models() -> dict[str, Any]:
    """List the models that this key can use"""
    if dialects.current() is ANTHROPIC:
        return _page(list(_usable()))
    return {"object": "list", "data": [_to_openai(model) for model in _usable()]}


@blueprint.get("/models/<model_name:model_id>")
@blueprint.doc(security=ONE_OF_THEM, parameters=[VERSION])
@openai_errors_of(400, 401, 404, 429, 503)
@blueprint.response(200)
def model(model_id: str) -> dict[str, Any]:
    """Get one model; its id may contain slashes, and begin and end with them"""
    usable = {model.named.name: model for model in _usable()}
    found = usable.get(model_id) or usable.get(model_id.strip("/"))
    if found is None:
        raise ModelNotFound(f"Model {model_id!r} not found. See GET /v1/models.")
    return _to_anthropic(found) if dialects.current() is ANTHROPIC else _to_openai(found)


def _usable() -> Iterator[UsableModel]:
    principal: Principal = g.principal
    router = services().gateway.router
    operation = ANTHROPICS_OPERATION if dialects.current() is ANTHROPIC else ""
    for named in router.names(operation):
        route = router.resolve(named.name, operation)
        if principal.allowance.allows_model(*route.names):
            yield UsableModel(named, *_limits(named, route))


def _limits(named: NamedModel, route: Route) -> tuple[int | None, int | None]:
    """Context window and maximum output: as the provider lists them, else as the prices have them;
    of a route the smallest of its targets."""
    prices = services().prices
    found = [prices.of(t.provider.name, t.provider.kind, t.model) for t in route.targets]
    context = min((price.context for price in found if price and price.context), default=None)
    output = min((price.max_output for price in found if price and price.max_output), default=None)
    return _number(named, CONTEXT_NAMES) or context, _number(named, OUTPUT_NAMES) or output


def _to_openai(model: UsableModel) -> dict[str, Any]:
    """With the limits where they are known: OpenAI's own list has none."""
    named = model.named
    listed = {"id": named.name, "object": "model", "created": named.created}
    limits = {"context_window": model.context, "max_output_tokens": model.max_output}
    known = {name: value for name, value in limits.items() if value}
    return {**listed, "owned_by": named.owner, **known}


def _to_anthropic(model: UsableModel) -> dict[str, Any]:
    named = model.named
    return {
        "type": "model",
        "id": named.name,
        "display_name": str(named.listed.get("display_name") or named.name),
        "created_at": _time(named.created),
        "lifecycle": "active",
        "max_input_tokens": model.context,
        "max_tokens": model.max_output,
    }


def _page(usable: list[UsableModel]) -> dict[str, Any]:
    """Anthropic's page of the models. Raises ValidationError."""
    page = validated(Page(unknown="exclude"), request.args.to_dict())
    names = [model.named.name for model in usable]
    if page["after_id"] is not None:
        start = _position(names, "after_id", page["after_id"]) + 1
        end = start + page["limit"]
    elif page["before_id"] is not None:
        end = _position(names, "before_id", page["before_id"])
        start = max(0, end - page["limit"])
    else:
        start, end = 0, page["limit"]
    data = [_to_anthropic(model) for model in usable[start:end]]
    backwards = page["after_id"] is None and page["before_id"] is not None
    return {
        "data": data,
        "has_more": start > 0 if backwards else end < len(usable),
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
    }


def _position(names: list[str], parameter: str, name: str) -> int:
    if name in names:
        return names.index(name)
    details = {parameter: [f"Model {name!r} not found."]}
    raise ValidationError(f"The request is not valid: {parameter}.", details=details)


def _number(named: NamedModel, names: tuple[str, ...]) -> int | None:
    """The first of these fields of the provider's list that is a positive number."""
    values = (named.listed.get(name) for name in names)
    return next((value for value in values if type(value) is int and value > 0), None)


def _time(seconds: int) -> str:
    """RFC 3339; Anthropic writes an unknown time as the epoch."""
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return "1970-01-01T00:00:00Z"
