"""/v1/files: OpenAI's Files, for the inputs and outputs of batches."""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Iterator
from itertools import chain
from typing import Any
from urllib.parse import quote

from flask import Response, g, request
from marshmallow import Schema, fields, validate

from webapp.admission import guard, guard_without_counting
from webapp.admission.bodies import count_body
from webapp.api.blueprint import Blueprint, validated
from webapp.api.dialects import speaking
from webapp.api.dialects.openai import OPENAI
from webapp.api.multipart import FileForm
from webapp.api.openapi import ONE_OF_THEM, openai_errors_of, query_of
from webapp.client_socket import ClientSocket
from webapp.current_request import current_request
from webapp.errors import ClientHungUp, ValidationError, WeirError
from webapp.files.file_store import RESULTS, StoredFile
from webapp.observability import request_context
from webapp.observability.request_context import RequestContext
from webapp.services import services

log = logging.getLogger(__name__)

uploads = speaking(
    OPENAI, guard(Blueprint("uploads", __name__, description="OpenAI's API: files of batches"))
)
blueprint = speaking(
    OPENAI, guard_without_counting(Blueprint("files", __name__, description="OpenAI's API: files"))
)

PURPOSE = "batch"
ANCHOR, SECONDS = "expires_after[anchor]", "expires_after[seconds]"
FIELDS = {"purpose", "expires_after", ANCHOR, SECONDS}
MIN_SECONDS, MAX_SECONDS = 3_600, 2_592_000
MAX_PAGE = 10_000
# What an upload has in memory at most: blocks that are read, decoded and written.
UPLOAD_MEMORY = 2 * 1024 * 1024
FORM = {
    "type": "object",
    "required": ["file", "purpose"],
    "properties": {
        "file": {
            "type": "string",
            "format": "binary",
            "minLength": 1,
            "description": "Up to `FILES_MAX_BYTES`.",
        },
        "purpose": {"type": "string", "enum": [PURPOSE]},
        ANCHOR: {"type": "string", "enum": ["created_at"]},
        SECONDS: {"type": "integer", "minimum": MIN_SECONDS, "maximum": MAX_SECONDS},
    },
}


class FileQuery(Schema):
    purpose = fields.String(load_default=None, validate=validate.OneOf([PURPOSE, RESULTS]))
    limit = fields.Integer(load_default=MAX_PAGE, validate=validate.Range(1, MAX_PAGE))
    order = fields.String(load_default="desc", validate=validate.OneOf(["asc", "desc"]))
    after = fields.String(load_default=None, metadata={"description": "The last id of a page."})


class FileObject(Schema):
    id = fields.String()
    object = fields.String()
    bytes = fields.Integer()
    created_at = fields.Integer()
    expires_at = fields.Integer()
    filename = fields.String()
    purpose = fields.String()
    status = fields.String()


class FileList(Schema):
    object = fields.String()
    data = fields.List(fields.Nested(FileObject))
    first_id = fields.String(allow_none=True)
    last_id = fields.String(allow_none=True)
    has_more = fields.Boolean()


class DeletedFile(Schema):
    id = fields.String()
    object = fields.String()
    deleted = fields.Boolean()


@uploads.post("/files")
@uploads.doc(
    security=ONE_OF_THEM,
    requestBody={"required": True, "content": {"multipart/form-data": {"schema": FORM}}},
)
@openai_errors_of(400, 401, 404, 408, 413, 415, 429, 500, 503)
@uploads.response(200, FileObject)
def create() -> dict[str, Any]:
    """Upload a file of requests for a batch (JSONL)"""
    count_body(UPLOAD_MEMORY)
    max_bytes = services().settings.files_max_bytes
    form = FileForm(current_request(), file_field="file", fields=FIELDS, max_bytes=max_bytes)
    filename = safe_name(form.open_file())
    _check_fields(form.fields)
    stored = services().files.save(
        g.principal.key_id,
        PURPOSE,
        filename,
        _checked(form),
        keep_seconds=lambda: _kept_seconds(form.fields),
    )
    return _to_dict(stored)


@blueprint.get("/files")
@blueprint.doc(security=ONE_OF_THEM, parameters=query_of(FileQuery))
@openai_errors_of(400, 401, 404, 429, 503)
@blueprint.response(200, FileList)
def page() -> dict[str, Any]:
    """List the files of this key"""
    query = validated(FileQuery(), request.args.to_dict())
    found, more = services().files.page(
        g.principal.key_id,
        purpose=query["purpose"],
        after=query["after"],
        limit=query["limit"],
        ascending=query["order"] == "asc",
    )
    return {
        "object": "list",
        "data": [_to_dict(file) for file in found],
        "first_id": found[0].id if found else None,
        "last_id": found[-1].id if found else None,
        "has_more": more,
    }


@blueprint.get("/files/<file_id>")
@blueprint.doc(security=ONE_OF_THEM)
@openai_errors_of(400, 401, 404, 429, 503)
@blueprint.response(200, FileObject)
def retrieve(file_id: str) -> dict[str, Any]:
    """Get what is known of a file"""
    return _to_dict(services().files.find(g.principal.key_id, file_id))


@blueprint.get("/files/<file_id>/content")
@blueprint.doc(
    security=ONE_OF_THEM,
    responses={
        200: {
            "description": "The bytes as they are",
            "content": {
                "application/octet-stream": {"schema": {"type": "string", "format": "binary"}}
            },
        }
    },
)
@openai_errors_of(400, 401, 404, 429, 503)
def content(file_id: str) -> Response:
    """Download a file"""
    return download(services().files.find(g.principal.key_id, file_id))


def download(file: StoredFile) -> Response:
    """A file as an answer, which is read while it is sent. Raises NotFound."""
    chunks = services().files.read(file)
    # Before the head is sent: what cannot be read is an error of its own.
    first = next(chunks, b"")
    response = Response(
        _sent(chain([first], chunks), request_context.current(), _connection()),
        mimetype="application/octet-stream",
        headers={
            "Content-Length": str(file.bytes),
            "Content-Disposition": _disposition(file.filename),
        },
    )
    # A generator that was never started does not run its `finally`.
    response.call_on_close(getattr(chunks, "close", lambda: None))
    return response


@blueprint.delete("/files/<file_id>")
@blueprint.doc(security=ONE_OF_THEM)
@openai_errors_of(400, 401, 404, 429, 503)
@blueprint.response(200, DeletedFile)
def delete(file_id: str) -> dict[str, Any]:
    """Delete a file"""
    services().files.delete(g.principal.key_id, file_id)
    return {"id": file_id, "object": "file", "deleted": True}


def _checked(form: FileForm) -> Iterator[bytes]:
    """The file's bytes; at their end the fields are checked, whatever their order was."""
    yield from form.file()
    if "purpose" not in form.fields:
        raise _invalid("purpose", f"Missing. Send purpose={PURPOSE}.")
    _check_fields(form.fields)


def _check_fields(given: dict[str, str]) -> None:
    """Check the fields that have come so far. Raises ValidationError."""
    if given.get("purpose", PURPOSE) != PURPOSE:
        raise _invalid("purpose", f"Must be {PURPOSE!r}.")
    if given.get(ANCHOR, "created_at") != "created_at":
        raise _invalid(ANCHOR, "Must be 'created_at'.")
    if SECONDS in given:
        text = given[SECONDS]
        is_integer = text.isascii() and text.isdecimal()
        if not is_integer or not MIN_SECONDS <= int(text) <= MAX_SECONDS:
            raise _invalid(SECONDS, f"Must be an integer from {MIN_SECONDS} to {MAX_SECONDS}.")
    if "expires_after" in given:
        # Taken for nothing, the file would be kept for longer than was asked for.
        raise _invalid("expires_after", f"Send {ANCHOR} and {SECONDS}.")


def _kept_seconds(given: dict[str, str]) -> float | None:
    return float(given[SECONDS]) if SECONDS in given else None


def _invalid(field: str, reason: str) -> ValidationError:
    return ValidationError(f"{field}: {reason}", details={field: [reason]})


def _to_dict(file: StoredFile) -> dict[str, Any]:
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.bytes,
        "created_at": file.created_at,
        "expires_at": file.expires_at,
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
    }


def safe_name(filename: str) -> str:
    """The name without folders and control characters, as some clients send a whole path."""
    name = filename.replace("\\", "/").rpartition("/")[2]
    name = "".join(letter for letter in name if unicodedata.category(letter)[0] != "C")
    return name.strip() or "file"


def _disposition(filename: str) -> str:
    """Content-Disposition, with the whole name as RFC 8187 has it if it is not ASCII."""
    plain = unicodedata.normalize("NFKD", filename).encode("ascii", "ignore").decode()
    escaped = plain.replace("\\", "_").replace('"', "_") or "file"
    header = f'attachment; filename="{escaped}"'
    return header if plain == filename else f"{header}; filename*=UTF-8''{quote(filename, safe='')}"


def _connection() -> ClientSocket | None:
    """The client's connection, under Gunicorn."""
    connection: ClientSocket | None = request.environ.get("gunicorn.socket")
    return connection


def _sent(
    chunks: Iterator[bytes], context: RequestContext, connection: ClientSocket | None
) -> Iterator[bytes]:
    """Chunks of an answer whose head is sent: what fails now closes the connection, so that the
    client sees that the file is cut."""
    try:
        yield from chunks
    except GeneratorExit:
        context.error = ClientHungUp.__name__
        raise
    except WeirError as error:
        context.ended_with(error)
        if connection is None:
            raise
        connection.close_after_answer()
