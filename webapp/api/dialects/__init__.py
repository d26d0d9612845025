"""The dialects of the endpoints, and which of them a request is answered in."""

from __future__ import annotations

from typing import TypeVar

import flask
from flask import current_app, request

from webapp.api.dialects import anthropic
from webapp.api.dialects.anthropic import ANTHROPIC
from webapp.api.dialects.dialect import Dialect
from webapp.api.dialects.native import NATIVE
from webapp.api.dialects.openai import OPENAI

DIALECT = "weir_dialect"
OR_ANTHROPIC = "weir_or_anthropic"
ANTHROPICS_PATHS = "/v1/messages"

AnyBlueprint = TypeVar("AnyBlueprint", bound=flask.Blueprint)


def speaking(
    dialect: Dialect, blueprint: AnyBlueprint, *, or_anthropic: bool = False
) -> AnyBlueprint:
    """Say in which dialect the blueprint's endpoints are; without it they are native.

    `or_anthropic` says that clients of Anthropic's API are answered in theirs.
    """
    setattr(blueprint, DIALECT, dialect)
    setattr(blueprint, OR_ANTHROPIC, or_anthropic)
    return blueprint


def of(blueprint: object) -> Dialect:
    """The dialect of a blueprint."""
    dialect: Dialect = getattr(blueprint, DIALECT, NATIVE)
    return dialect


def current() -> Dialect:
    """The dialect of this request."""
    if name := request.blueprint:
        blueprint = current_app.blueprints[name]
        if getattr(blueprint, OR_ANTHROPIC, False) and anthropic.is_asked_for():
            return ANTHROPIC
        return of(blueprint)
    return _of_unknown_path(request.path)


def counted_endpoint(rule: str) -> str:
    """The endpoint that this request is counted and billed under: a native endpoint is the same
    one with and without /v1."""
    return rule.removeprefix("/v1") if current() is NATIVE else rule


def _of_unknown_path(path: str) -> Dialect:
    """The dialect of a path, or of a method of it, that no endpoint has."""
    if path == ANTHROPICS_PATHS or path.startswith(f"{ANTHROPICS_PATHS}/"):
        return ANTHROPIC
    if not path.startswith("/v1/") or path in current_app.extensions["weir.native_paths"]:
        return NATIVE
    return ANTHROPIC if anthropic.is_asked_for() else OPENAI
