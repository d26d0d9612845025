"""What all doors are made of: the blueprint, how bodies are read, and what they may hold."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

import flask_smorest
from flask import request
from marshmallow import Schema, ValidationError, fields, validate

from webapp import errors
from webapp.services import services

View = TypeVar("View", bound=Callable[..., Any])

MEBIBYTE = 1024 * 1024
MODEL = r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,199}"


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
                return view(*args, _validated(schema, _read_json()), **kwargs)

            return cast(View, wrapper)

        return decorator


def _read_json() -> Any:
    mimetype = request.mimetype
    if mimetype != "application/json" and not mimetype.endswith("+json"):
        raise errors.UnsupportedMediaType("Send JSON, with Content-Type: application/json.")
    body = request.get_data(cache=False)
    longest = request.max_content_length
    # What comes in chunks has no length to refuse by; Werkzeug stops reading at the limit.
    if request.content_length is None and longest is not None and len(body) >= longest:
        raise errors.PayloadTooLarge("The body is larger than this address takes.")
    try:
        return json.loads(body.decode("utf-8"))
    except UnicodeDecodeError:
        raise errors.MalformedRequest("The body is not UTF-8.") from None
    except RecursionError:
        raise errors.MalformedRequest("The body is nested too deeply.") from None
    except ValueError as error:
        raise errors.MalformedRequest(f"The body is not JSON: {error}") from None


def _validated(schema: Schema, body: Any) -> Any:
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
            raise ValidationError("Not valid Unicode: it has half of a surrogate pair.") from None
        for pattern in services().settings.prompt_denylist:
            if pattern.search(text):
                raise ValidationError(f"Refused: it matches {pattern.pattern!r}.")
        return text


class Number(fields.Float):
    """A finite JSON number; a number in a string is none."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_nan=False, **kwargs)

    def _validated(self, value: Any) -> float:
        if isinstance(value, str | bool):
            raise self.make_error("invalid", input=value)
        return super()._validated(value)


class Whole(fields.Integer):
    """A whole JSON number; 1.0 and "1" are none."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(strict=True, **kwargs)

    def _validated(self, value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.make_error("invalid", input=value)
        return super()._validated(value)


class Flag(fields.Boolean):
    """true or false, nothing that looks like them."""

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> bool:
        if not isinstance(value, bool):
            raise self.make_error("invalid", input=value)
        return value


class ModelName(fields.String):
    """A model's name, with or without its provider."""

    def __init__(self, **kwargs: Any) -> None:
        pattern = validate.Regexp(re.compile(f"^{MODEL}\\Z"), error="Not a model's name.")
        super().__init__(
            validate=[pattern], metadata={"pattern": f"^{MODEL}$", "example": "gpt-4o-mini"},
            **kwargs,
        )  # fmt: skip
