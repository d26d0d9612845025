"""JSON schemas of answers: what OpenAI's strict mode and Anthropic ask of an object."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

# Where a schema holds others: by name, in a list, or one alone.
NAMED = ("properties", "$defs", "definitions")
LISTED = ("anyOf", "oneOf", "prefixItems")
ALONE = ("items", "additionalProperties")


def is_strict(schema: Any) -> bool:
    """Whether OpenAI's strict mode takes it: objects are closed, and all their fields required."""
    if not isinstance(schema, Mapping):
        return True
    if _is_object(schema):
        fields, required = schema.get("properties") or {}, schema.get("required") or []
        if schema.get("additionalProperties") is not False:
            return False
        if not (isinstance(required, list) and isinstance(fields, Mapping)):
            return False
        if not set(fields) <= set(map(str, required)):
            return False
    return "allOf" not in schema and all(map(is_strict, _inner(schema)))


def closed(schema: Any) -> Any:
    """The schema with objects closed to fields that they do not name, where it does not say.

    Anthropic wants that said of every object.
    """
    if not isinstance(schema, Mapping):
        return schema
    found = _each(schema, closed)
    if isinstance(found.get("properties"), Mapping) and _is_object(found):
        found.setdefault("additionalProperties", False)
    return found


def _is_object(schema: Mapping[str, Any]) -> bool:
    kind = schema.get("type")
    kinds = kind if isinstance(kind, list) else [kind]
    return "object" in kinds or (kind is None and "properties" in schema)


def _inner(schema: Mapping[str, Any]) -> Iterator[Any]:
    for name, value in schema.items():
        if name in NAMED and isinstance(value, Mapping):
            yield from value.values()
        elif name in LISTED and isinstance(value, list):
            yield from value
        elif name in ALONE:
            yield value


def _each(schema: Mapping[str, Any], change: Callable[[Any], Any]) -> dict[str, Any]:
    """The schema with each schema in it changed."""
    changed: dict[str, Any] = {}
    for name, value in schema.items():
        if name in NAMED and isinstance(value, Mapping):
            changed[name] = {key: change(inner) for key, inner in value.items()}
        elif name in LISTED and isinstance(value, list):
            changed[name] = [change(inner) for inner in value]
        else:
            changed[name] = change(value) if name in ALONE else value
    return changed
