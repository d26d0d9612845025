"""What all endpoints are made of: their blueprints, how bodies are read, what these may hold."""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeVar, cast

import flask
import flask_smorest
import orjson
from flask import request
from marshmallow import INCLUDE, Schema, ValidationError, fields, validate

from webapp import errors
from webapp.admission import guard
from webapp.admission.idempotency import idempotent
from webapp.llm.messages import ModelRequest
from webapp.services import services
from webapp.setting_parsers import MODEL

View = TypeVar("View", bound=Callable[..., Any])
AnyBlueprint = TypeVar("AnyBlueprint", bound=flask.Blueprint)

MEBIBYTE = 1024 * 1024
OPENAI_ENDPOINT = "weir_openai_endpoint"
MAX_ITEMS = 100  # numbers of a row, rows of a batch
ITEM_COUNT = validate.Length(1, MAX_ITEMS)


def _not_json(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


# Python reads NaN and Infinity, which JSON has not, and providers refuse.
STRICT_JSON = json.JSONDecoder(parse_constant=_not_json)


class JSONBody:
    """Reads a JSON body into a schema, with errors of the house.

    Stands where smorest expects a parser of webargs, whose ways through any framework and any part
    of a request cost as much as the validation itself.
    """

    DEFAULT_VALIDATION_STATUS = 422

    def use_args(self, schema: Schema, *, location: str) -> Callable[[View], View]:
        def decorator(view: View) -> View:
            @wraps(view)
            def wrapper(*args: Any, **kwargs: Any) -> Any:
                # What a schema leaves as it is may be passed on.
                body = read_json(exact=schema.unknown == INCLUDE)
                return view(*args, validated(schema, body), **kwargs)

            return cast(View, wrapper)

        return decorator


def read_json(*, exact: bool = True) -> Any:
    """The JSON of this request's body; unless `exact`, an integer beyond 64 bits is a float."""
    mimetype = request.mimetype
    if mimetype != "application/json" and not mimetype.endswith("+json"):
        raise errors.UnsupportedMediaType("Send JSON, with Content-Type: application/json.")
    body = request.get_data(cache=False)
    longest = request.max_content_length
    # What comes in chunks has no length to refuse by; Werkzeug stops reading at the limit.
    if request.content_length is None and longest is not None and len(body) >= longest:
        raise errors.PayloadTooLarge("The body is too large for this endpoint.")
    if request.content_length is not None and len(body) < request.content_length:
        raise errors.MalformedRequest("The body is shorter than its Content-Length.")
    try:
        return _decoded(body, exact=exact)
    except UnicodeDecodeError:
        raise errors.MalformedRequest("The body is not UTF-8.") from None
    except RecursionError:
        raise errors.MalformedRequest("The body is nested too deeply.") from None
    except ValueError as error:
        raise errors.MalformedRequest(f"The body is not JSON: {error}") from None


def _decoded(body: bytes, *, exact: bool) -> Any:
    if not exact:
        # Much faster, and of what it refuses the other says what is wrong.
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
    """An endpoint that asks a model: how its body is read, for whoever explains a request."""

    path: str
    schema: Schema
    to_model_request: Callable[[dict[str, Any]], ModelRequest]
    check: Callable[[dict[str, Any]], None] = lambda _: None
    """Raises ValidationError for what the schema cannot know, such as limits of the tier."""


class AnsweringBlueprint(Blueprint):
    """Endpoints that need a key, count against its limits, and can be repeated safely.

    The order counts: who asks, then how long the body may be, then whether it was sent before.
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


def openai_endpoint(blueprint: AnyBlueprint) -> AnyBlueprint:
    """Mark the blueprint as OpenAI's: under /v1 only, with OpenAI's error envelope."""
    setattr(blueprint, OPENAI_ENDPOINT, True)
    return blueprint


def is_openai_endpoint(blueprint: object) -> bool:
    return getattr(blueprint, OPENAI_ENDPOINT, False)


def limit_body(size: int) -> None:
    """Refuse a longer body of this request, whatever its length header says."""
    request.max_content_length = min(size, services().settings.max_body_bytes)


class Text(fields.String):
    """A string that can be sent on (no half of a surrogate pair) and is not on the denylist."""

    def __init__(self, *, longest: int | None, shortest: int = 1, **kwargs: Any) -> None:
        length = validate.Length(min=shortest, max=longest)
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
    """A finite JSON number; a number in a string is none."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_nan=False, **kwargs)

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> float:
        if isinstance(value, str | bool):
            raise self.make_error("invalid", input=value)
        return super()._deserialize(value, *args, **kwargs)


class BoundedList(fields.List[Any]):
    """1 to MOST values; how many there are is looked at before what is in them."""

    def __init__(self, of: fields.Field[Any], **kwargs: Any) -> None:
        super().__init__(of, required=True, validate=ITEM_COUNT, **kwargs)

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> list[Any]:
        if isinstance(value, list):
            ITEM_COUNT(value)
        return super()._deserialize(value, *args, **kwargs)


class Numbers(BoundedList):
    """Finite numbers, looked at together: one by one, a batch would stall streams for 30 ms.

    One by one only where some are wrong, to say which.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(Number(), **kwargs)

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> list[Any]:
        few = isinstance(value, list) and len(value) <= MAX_ITEMS
        if few and set(map(type, value)) <= {int, float}:
            with contextlib.suppress(OverflowError):
                numbers = list(map(float, value))
                # A sum is finite only where all of its numbers are.
                if math.isfinite(sum(numbers)):
                    return numbers
        return super()._deserialize(value, *args, **kwargs)


class StrictInteger(fields.Integer):
    """A whole JSON number; 1.0 and "1" are none."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(strict=True, **kwargs)

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.make_error("invalid", input=value)
        return super()._deserialize(value, *args, **kwargs)


class StrictBoolean(fields.Boolean):
    """true or false, nothing that looks like them."""

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> bool:
        if not isinstance(value, bool):
            raise self.make_error("invalid", input=value)
        return value


class ObjectList(fields.List[dict[str, Any]]):
    """A list of JSON objects, whatever is in them; they are not copied."""

    def __init__(self, *, shortest: int, **kwargs: Any) -> None:
        self._shortest = shortest
        super().__init__(
            fields.Dict(keys=fields.String()), metadata={"minItems": shortest}, **kwargs
        )

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> list[Any]:
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise ValidationError("Not a list of objects.")
        if len(value) < self._shortest:
            raise ValidationError(f"Shorter than minimum length {self._shortest}.")
        return value


class ModelName(fields.String):
    """A model's name, with or without its provider."""

    def __init__(self, **kwargs: Any) -> None:
        pattern = validate.Regexp(re.compile(f"^{MODEL}\\Z"), error="Not a valid model name.")
        super().__init__(
            validate=[pattern], metadata={"pattern": f"^{MODEL}$", "example": "gpt-4o-mini"},
            **kwargs,
        )  # fmt: skip
