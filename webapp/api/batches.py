"""/v1/batches: OpenAI's Batch API."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from flask import Response, g, jsonify, request

from webapp import money
from webapp.admission import guard_without_counting
from webapp.admission.identity import Principal
from webapp.api.batch_schemas import BatchCreationBody, BatchList, BatchObject, PageQuery
from webapp.api.blueprint import (
    MEBIBYTE,
    AnsweringBlueprint,
    Blueprint,
    validated,
)
from webapp.api.dialects import speaking
from webapp.api.dialects.openai import OPENAI
from webapp.api.openapi import (
    IDEMPOTENCY_KEY,
    ONE_OF_THEM,
    openai_errors_of,
    query_of,
)
from webapp.batches.batch import Batch
from webapp.batches.batch_store import cap_of
from webapp.batches.tables import Kind, Mode
from webapp.errors import NotFound, ValidationError
from webapp.observability import request_context
from webapp.services import services

HOURS = re.compile(r"([1-9][0-9]{0,2})h")
MAX_HOURS = 168
EXAMPLE = {
    "input_file_id": "file-abc123",
    "endpoint": "/v1/chat/completions",
    "completion_window": "24h",
}
TIMES = (
    "in_progress_at", "finalizing_at", "completed_at", "failed_at", "expired_at", "cancelling_at",
    "cancelled_at",
)  # fmt: skip
ON_LOST = ("retry", "fail")
# The names in metadata that say something to Weir. Others that begin like these are refused.
OWN_PREFIX, OWN_NAMES = "weir_", ("weir_cost_cap_usd", "weir_mode", "weir_on_lost")


creation = speaking(
    OPENAI,
    AnsweringBlueprint(
        "batch_creation", __name__, description="OpenAI's API: batches", max_body=MEBIBYTE
    ),
)
blueprint = speaking(
    OPENAI,
    guard_without_counting(Blueprint("batches", __name__, description="OpenAI's API: batches")),
)


@creation.post("/batches")
@creation.doc(security=ONE_OF_THEM, parameters=[IDEMPOTENCY_KEY])
@openai_errors_of(400, 401, 404, 409, 413, 415, 422, 429, 500, 503)
@creation.arguments(BatchCreationBody(), example=EXAMPLE)
@creation.response(200, BatchObject)
def create(body: dict[str, Any]) -> dict[str, Any]:
    """Create a batch of the requests in a file, as OpenAI's API"""
    principal: Principal = g.principal
    parts = services()
    _check(body)
    try:
        file = parts.files.find(principal.key_id, body["input_file_id"])
    except NotFound as missing:
        raise _invalid("input_file_id", missing.message) from None
    if file.purpose != "batch":
        raise _invalid("input_file_id", f"The purpose of file {file.id} is not 'batch'.")
    parts.files.check_quota(principal.key_id)
    metadata = body["metadata"]
    kept = body["output_expires_after"]
    batch = parts.batches.create(
        key_id=principal.key_id,
        endpoint=body["endpoint"],
        input_file_id=file.id,
        metadata=metadata,
        completion_window=body["completion_window"],
        seconds=_hours(body["completion_window"]) * 3600.0,
        mode=_choice(metadata, "weir_mode", tuple(Mode)),
        cap_nano=_cap(metadata),
        on_lost=_choice(metadata, "weir_on_lost", ON_LOST),
        output_expires_after=kept and kept["seconds"],
        request_id=request_context.current().request_id,
    )
    parts.batch_work.announce(batch.id)
    return to_dict(batch)


@blueprint.get("/batches")
@blueprint.doc(security=ONE_OF_THEM, parameters=query_of(PageQuery))
@openai_errors_of(400, 401, 404, 429, 503)
@blueprint.response(200, BatchList)
def page() -> Response:
    """List the batches of this key, the newest first"""
    query = validated(PageQuery(), request.args.to_dict())
    found, more = services().batches.page(
        key_id=g.principal.key_id, after=query["after"], limit=query["limit"]
    )
    data = [to_dict(batch) for batch in found]
    # A response, as the schema would copy each field of each batch: a third of the time.
    return jsonify(
        object="list",
        data=data,
        first_id=data[0]["id"] if data else None,
        last_id=data[-1]["id"] if data else None,
        has_more=more,
    )


@blueprint.get("/batches/<batch_id>")
@blueprint.doc(security=ONE_OF_THEM)
@openai_errors_of(400, 401, 404, 429, 503)
@blueprint.response(200, BatchObject)
def show(batch_id: str) -> dict[str, Any]:
    """Get a batch of this key"""
    return to_dict(_find(batch_id))


@blueprint.post("/batches/<batch_id>/cancel")
@blueprint.doc(security=ONE_OF_THEM)
@openai_errors_of(400, 401, 404, 409, 413, 415, 429, 503)
@blueprint.response(200, BatchObject)
def cancel(batch_id: str) -> dict[str, Any]:
    """Cancel a batch: no further line begins; those that run end"""
    batch = services().batches.cancel(_find(batch_id))
    services().batch_work.announce(batch.id)
    return to_dict(batch)


def _find(batch_id: str) -> Batch:
    return services().batches.find(batch_id, key_id=g.principal.key_id, kind=Kind.BATCH)


def to_dict(batch: Batch) -> dict[str, Any]:
    """The batch as OpenAI's API shows it."""
    errors = batch.errors and {"object": "list", "data": batch.errors}
    times = {name: _whole(getattr(batch, name)) for name in TIMES}
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "errors": errors,
        "input_file_id": batch.input_file_id,
        "completion_window": batch.completion_window,
        "status": str(batch.state),
        "output_file_id": batch.output_file_id,
        "error_file_id": batch.error_file_id,
        "created_at": int(batch.created_at),
        "expires_at": int(batch.expires_at),
        **times,
        "request_counts": {
            "total": batch.total,
            "completed": batch.succeeded,
            "failed": batch.failed,
        },
        "metadata": batch.metadata,
        "weir": _own_fields(batch),
    }


def _own_fields(batch: Batch) -> dict[str, Any]:
    """What OpenAI's batches do not have."""
    return {
        "mode": str(batch.mode),
        "mode_reason": batch.mode_reason,
        "cost_cap_usd": money.to_usd(batch.cap_nano),
        "stopped_by": batch.stopped_by,
    }


def _whole(seconds: float | None) -> int | None:
    return None if seconds is None else int(seconds)


def _check(body: dict[str, Any]) -> None:
    endpoints = services().batch_endpoints
    if body["endpoint"] not in endpoints:
        raise _invalid("endpoint", f"Must be one of {', '.join(endpoints)}.")
    _hours(body["completion_window"])
    for name in body["metadata"] or {}:
        if name.startswith(OWN_PREFIX) and name not in OWN_NAMES:
            raise _invalid(f"metadata.{name}", f"Weir's own are {', '.join(OWN_NAMES)}.")


def _hours(window: str) -> int:
    found = HOURS.fullmatch(window)
    if not found or int(found[1]) > MAX_HOURS:
        raise _invalid("completion_window", f"Must be '24h', or other hours up to {MAX_HOURS}.")
    return int(found[1])


def _choice(metadata: Mapping[str, str] | None, name: str, choices: tuple[str, ...]) -> Any:
    chosen = (metadata or {}).get(name, choices[0])
    if chosen not in choices:
        raise _invalid(f"metadata.{name}", f"Must be one of {', '.join(choices)}.")
    return type(choices[0])(chosen)


def _cap(metadata: Mapping[str, str] | None) -> int | None:
    try:
        return cap_of(metadata or {})
    except ValueError as error:
        raise _invalid("metadata.weir_cost_cap_usd", str(error)) from None


def _invalid(name: str, reason: str) -> ValidationError:
    return ValidationError(f"The request is not valid: {name}: {reason}", details={name: [reason]})
