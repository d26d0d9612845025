"""/jobs/{id}: native requests that are answered later."""

from __future__ import annotations

import json
from typing import Any

from flask import Response, g

from webapp.admission import guard_without_counting
from webapp.api.blueprint import Blueprint
from webapp.api.openapi import ONE_OF_THEM, errors_of
from webapp.api.schemas import JobSchema
from webapp.batches.batch import Batch, JobLine
from webapp.batches.finalization import LOST_ERROR
from webapp.batches.job import JobStatus, result_of, status_of
from webapp.batches.tables import Kind
from webapp.errors import Conflict
from webapp.services import services

blueprint = guard_without_counting(
    Blueprint("jobs", __name__, description="Requests that are answered later")
)


@blueprint.get("/jobs/<job_id>")
@blueprint.doc(security=ONE_OF_THEM)
@errors_of(400, 401, 403, 404, 429, 503)
@blueprint.response(200, JobSchema)
def show(job_id: str) -> Any:
    """The status of a job of this key, and its response once it has ended; consumes nothing"""
    return _response(_find(job_id))


@blueprint.delete("/jobs/<job_id>")
@blueprint.doc(security=ONE_OF_THEM)
@errors_of(400, 401, 403, 404, 409, 429, 503)
@blueprint.response(200, JobSchema)
def cancel(job_id: str) -> Any:
    """Cancel a job, also one that runs; consumes nothing"""
    job, parts = _find(job_id), services()
    status = status_of(job, parts.batch_lines.of_job(job.id))
    if status.has_ended and status is not JobStatus.CANCELLED:
        raise Conflict(f"The job '{job.id}' is {status} and cannot be cancelled.")
    cancelled = parts.batches.cancel(job)
    parts.batch_work.announce(job.id)
    return _response(cancelled)


def _find(job_id: str) -> Batch:
    return services().batches.find(job_id, key_id=g.principal.key_id, kind=Kind.JOB)


def _response(job: Batch) -> Response:
    line = services().batch_lines.of_job(job.id)
    status = status_of(job, line)
    fields: dict[str, Any] = {
        "id": job.id,
        "status": str(status),
        "endpoint": job.endpoint,
        "created_at": int(job.created_at),
        "expires_at": int(job.expires_at),
        "ended_at": None if job.ended_at is None else int(job.ended_at),
        "request_id": job.request_id,
    }
    text = json.dumps(fields).encode()
    if result := _result(job, status, line):
        # As the endpoint wrote it, byte for byte.
        text = text[:-1] + b", " + result[1:]
    return Response(text, mimetype="application/json")


def _result(job: Batch, status: JobStatus, line: JobLine) -> bytes | None:
    if status not in {JobStatus.COMPLETED, JobStatus.FAILED}:
        return None
    if line.result is not None:
        return line.result
    error = {
        "error": "InternalError",
        "message": LOST_ERROR["message"],
        "details": {"code": line.error},
        "path": job.endpoint,
        "request_id": job.id,
    }
    return result_of(500, json.dumps(error).encode())
