"""What all endpoints share: blueprints, reading of JSON bodies, fields of schemas."""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeVar, cast

import flask_smorest
import orjson
from flask import current_app, g, request
from marshmallow import INCLUDE, Schema, ValidationError, fields, validate

from webapp import errors
from webapp.admission import guard, sessions
from webapp.admission.bodies import decoding_turn, read_body
from webapp.admission.idempotency import idempotent
from webapp.admission.identity import Principal
from webapp.api import deferral, dialects
from webapp.api.dialects.native import NATIVE
from webapp.llm.messages import ModelRequest
from webapp.model_names import NAME
from webapp.services import services

View = TypeVar("View", bound=Callable[..., Any])

MEBIBYTE = 1024 * 1024
FORM_BYTES = 64 * 1024
MAX_ITEMS = 100  # numbers in a row, rows in a batch
ITEM_COUNT = validate.Length(1, MAX_ITEMS)


def _not_json(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


# Python accepts NaN and Infinity, which are not JSON, and which providers refuse.
STRICT_JSON = json.JSONDecoder(parse_constant=_not_json)


class JSONBody:
    """Loads a JSON body with a schema. Raises Weir's errors.

    It replaces the webargs parser of smorest, which takes as long as the validation itself.
    """

    DEFAULT_VALIDATION_STATUS = 422

    def use_args(self, schema: Schema, *, location: str) -> Callable[[View], View]:
        def decorator(view: View) -> View:
            @wraps(view)
            def wrapper(*args: Any, **kwargs: Any) -> Any:
                # Unknown fields are passed to providers, so numbers must not lose precision.
                body = read_json(exact=schema.unknown == INCLUDE)
                arguments = validated(schema, body)
                if endpoint := deferrable():
                    if deferral.is_wanted():
                        endpoint.check(arguments)
                        return deferral.defer(body)
                    deferral.refuse_callback()
                return view(*args, arguments, **kwargs)

            return cast(View, wrapper)

        return decorator


def read_json(*, exact: bool = True) -> Any:
    """The JSON body of this request. Unless `exact`, integers beyond 64 bits become floats."""
    mimetype = request.mimetype
    if mimetype != "application/json" and not mimetype.endswith("+json"):
        raise errors.UnsupportedMediaType("Send JSON, with Content-Type: application/json.")
    body = read_body()
    try:
        with decoding_turn(body):
            return _decoded(body, exact=exact)
    except UnicodeDecodeError:
        raise errors.MalformedRequest("The body is not UTF-8.") from None
    except RecursionError:
        raise errors.MalformedRequest("The body is nested too deeply.") from None
    except ValueError as error:
        raise errors.MalformedRequest(f"The body is not JSON: {error}") from None


def _decoded(body: bytes, *, exact: bool) -> Any:
    if not exact:
        # Much faster. If it fails, the other parser gives the error message.
        with contextlib.suppress(orjson.JSONDecodeError):
            return orjson.loads(body)
    return STRICT_JSON.decode(body.decode("utf-8"))


def validated(schema: Schema, body: Any) -> Any:
    """The body as the schema loads it. Raises errors.ValidationError."""
    try:
        return schema.load(body)
    except ValidationError as error:
        details = cast(dict[str, Any], error.messages)
        names = ", ".join(map(str, details))
        raise errors.ValidationError(
            f"The request is not valid: {names}.", details=details
        ) from None


class Blueprint(flask_smorest.Blueprint):
    ARGUMENTS_PARSER = JSONBody()


@dataclass(frozen=True, slots=True)
class ModelEndpoint:
    """An endpoint that calls a model: how its body is read. Used by /v1/explain."""

    path: str
    schema: Schema
    to_model_request: Callable[[dict[str, Any]], ModelRequest]
    check: Callable[[dict[str, Any]], None] = lambda _: None
    """Raises ValidationError for what the schema cannot check, such as limits of the tier."""


class AnsweringBlueprint(Blueprint):
    """Endpoints that need a key, count against its limits, and can be repeated safely.

    The order matters: authentication, then the limit of the body, then the idempotency key.
    """

    def __init__(
        self,
        name: str,
        import_name: str,
        *,
        description: str,
        max_body: int,
        model_endpoint: ModelEndpoint | None = None,
    ) -> None:
        super().__init__(name, import_name, description=description)
        self.model_endpoint = model_endpoint
        guard(self)
        self.before_request(lambda: limit_body(max_body))
        idempotent(self)

    def check(self, body: dict[str, Any]) -> None:
        """Raise what a valid body would be refused for before any provider is asked."""
        if self.model_endpoint is None:
            return
        self.model_endpoint.check(body)
        sessions.of_request({})
        principal: Principal = g.principal
        services().gateway.check_model(body["model"], principal.allowance.allows_model)


def deferrable() -> AnsweringBlueprint | None:
    """The blueprint of this request, if its requests can be answered later."""
    blueprint = current_app.blueprints[request.blueprint or ""]
    if isinstance(blueprint, AnsweringBlueprint) and dialects.of(blueprint) is NATIVE:
        return blueprint
    return None


def limit_body(size: int) -> None:
    """Refuse a body of this request that is larger than `size` bytes."""
    request.max_content_length = min(size, services().settings.max_body_bytes)


class Text(fields.String):
    """A string without unpaired surrogates that no pattern of the denylist matches."""

    def __init__(self, *, max_length: int | None, min_length: int = 1, **kwargs: Any) -> None:
        length = validate.Length(min=min_length, max=max_length)
        super().__init__(validate=[length], **kwargs)

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> str:
        text = super()._deserialize(value, *args, **kwargs)
        if text is None:
            return text
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValidationError("Not valid Unicode: unpaired surrogate.") from None
        for pattern in services().settings.prompt_denylist:
            if pattern.search(text):
                raise ValidationError(f"Refused: matches the denylist pattern {pattern.pattern!r}.")
        return text


class Number(fields.Float):
    """A finite JSON number. Strings are refused."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_nan=False, **kwargs)

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> float:
        if isinstance(value, str | bool):
            raise self.make_error("invalid", input=value)
        return super()._deserialize(value, *args, **kwargs)


class BoundedList(fields.List[Any]):
    """1 to MAX_ITEMS values. The number of values is checked before the values."""

    def __init__(self, of: fields.Field[Any], **kwargs: Any) -> None:
        super().__init__(of, required=True, validate=ITEM_COUNT, **kwargs)

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> list[Any]:
        if isinstance(value, list):
            ITEM_COUNT(value)
        return super()._deserialize(value, *args, **kwargs)


class Numbers(BoundedList):
    """Finite numbers, checked together: one by one, a batch would stall streams for 30 ms.

    They are checked one by one only if some are invalid, for the error message.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(Number(), **kwargs)

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> list[Any]:
        within_limit = isinstance(value, list) and len(value) <= MAX_ITEMS
        if within_limit and set(map(type, value)) <= {int, float}:
            with contextlib.suppress(OverflowError):
                numbers = list(map(float, value))
                # A sum is finite only if all of its numbers are.
                if math.isfinite(sum(numbers)):
                    return numbers
        return super()._deserialize(value, *args, **kwargs)


class StrictInteger(fields.Integer):
    """A JSON integer. 1.0 and "1" are refused."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(strict=True, **kwargs)

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.make_error("invalid", input=value)
        return super()._deserialize(value, *args, **kwargs)


class StrictBoolean(fields.Boolean):
    """true or false. Strings and numbers are refused."""

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> bool:
        if not isinstance(value, bool):
            raise self.make_error("invalid", input=value)
        return value


class ObjectList(fields.List[dict[str, Any]]):
    """A list of JSON objects. Their fields are not checked, and they are not copied."""

    def __init__(self, *, min_length: int, **kwargs: Any) -> None:
        self._min_length = min_length
        super().__init__(
            fields.Dict(keys=fields.String()), metadata={"minItems": min_length}, **kwargs
        )

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> list[Any]:
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise ValidationError("Not a list of objects.")
        if len(value) < self._min_length:
            raise ValidationError(f"Shorter than minimum length {self._min_length}.")
        return value


class ModelName(fields.String):
    """A model's name, with or without its provider."""

    def __init__(self, **kwargs: Any) -> None:
        pattern = validate.Regexp(re.compile(f"^{NAME}\\Z"), error="Not a valid model name.")
        super().__init__(
            validate=[pattern], metadata={"pattern": f"^{NAME}$", "example": "gpt-4o-mini"},
            **kwargs,
        )  # fmt: skip
