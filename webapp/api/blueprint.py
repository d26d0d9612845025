"""What all doors are made of: the blueprint, how bodies are read, and what they may hold."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NoReturn

import flask_smorest
from flask import Request, request
from marshmallow import Schema, ValidationError, fields, validate
from webargs.flaskparser import FlaskParser

from webapp import errors
from webapp.services import services

MEBIBYTE = 1024 * 1024
MODEL = r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,199}"


class JSONParser(FlaskParser):
    """Reads a JSON body, with errors of the house."""

    def load_json(self, req: Request, schema: Schema) -> Any:
        if req.mimetype != "application/json" and not req.mimetype.endswith("+json"):
            raise errors.UnsupportedMediaType("Send JSON, with Content-Type: application/json.")
        try:
            return json.loads(req.get_data(cache=False).decode("utf-8"))
        except UnicodeDecodeError:
            raise errors.MalformedRequest("The body is not UTF-8.") from None
        except RecursionError:
            raise errors.MalformedRequest("The body is nested too deeply.") from None
        except ValueError as error:
            raise errors.MalformedRequest(f"The body is not JSON: {error}") from None

    def handle_error(
        self,
        error: ValidationError,
        req: Request,
        schema: Schema,
        *,
        error_status_code: int | None,
        error_headers: Mapping[str, str] | None,
    ) -> NoReturn:
        messages = error.messages
        # webargs files what it finds under where it looked.
        found = messages.get("json", messages) if isinstance(messages, dict) else messages
        details = found if isinstance(found, dict) else {"_schema": found}
        names = ", ".join(str(name) for name in details)
        raise errors.ValidationError(f"The request is not valid: {names}.", details=details)


class Blueprint(flask_smorest.Blueprint):
    ARGUMENTS_PARSER = JSONParser()


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
