"""Batches and jobs: list, details, files, start, cancel."""

from __future__ import annotations

import re
import time
from typing import Any
from urllib.parse import urlencode

from flask import Response, redirect, request, url_for
from sqlalchemy import ColumnElement

from webapp.accounts.keys import LARGEST_ID
from webapp.api import files
from webapp.api.multipart import FileForm
from webapp.batches.batch import Batch
from webapp.batches.job import JobStatus
from webapp.batches.job_listing import having, states_of
from webapp.batches.tables import ACTIVE, BatchState, Kind, batches
from webapp.current_request import current_request
from webapp.dashboard.batch_form import FIELDS, form_page, start_batch
from webapp.dashboard.pages import Blueprint, number_of, page
from webapp.dashboard.session import actor, check_csrf_token, members, streams_form
from webapp.dashboard.visibility import names_of_keys, visible_ids, visible_key
from webapp.errors import NotFound, PayloadTooLarge, StorageQuotaExceeded, ValidationError
from webapp.files.file_store import StoredFile
from webapp.services import services

# The API has the blueprint `batches`.
blueprint = members(Blueprint("batch_pages", __name__))

LISTED = 50
CALLS_SHOWN = 20
ERRORS_SHOWN = 100
CLOCKS_DIFFER = 60.0  # seconds, at most, that the clocks of two processes do
ID = re.compile(r"(batch|job)_[a-z0-9]{1,32}")
STATES = {Kind.BATCH: [*map(str, BatchState)], Kind.JOB: [*map(str, JobStatus)]}
CANCELLABLE = ACTIVE[:2]
FILES = ("input", "output", "error")
# What ended a batch early, by the code of the error of the lines that were not begun.
STOPPED_BY = {
    "batch_cancelled": "Cancelled.",
    "batch_expired": "The completion window ended.",
    "key_revoked": "The API key was revoked.",
    "cost_cap_reached": "The cost cap was reached.",
    "budget_exceeded": "The key's budget was used up.",
    "input_file_missing": "The input file was deleted, or has expired.",
}


@blueprint.get("/batches")
def latest() -> Any:
    """Batches or jobs, newest first, filtered by state and key"""
    names = ("kind", "state", "key", "after")
    filters = {name: request.args[name] for name in names if request.args.get(name)}
    kind = Kind.JOB if filters.get("kind") == Kind.JOB else Kind.BATCH
    state, after = filters.get("state", ""), filters.get("after", "")
    found, more = services().batches.page(
        key_ids=_key_ids(filters.get("key", "")),
        kind=kind,
        where=_having(kind, state) if state in STATES[kind] else (),
        after=after if ID.fullmatch(after) else None,
        limit=LISTED,
        with_errors=False,
    )
    older = "?" + urlencode(filters | {"after": found[-1].id}) if more else None
    return page(
        "batches.html",
        batches=found,
        older=older,
        kind=kind,
        filters=filters,
        states=STATES[kind],
        state_of=states_of(services().batches, found),
        names=names_of_keys(),
        costs=services().batches.spent_by(found),
        seconds_left=seconds_left,
    )


@blueprint.get("/batches/new")
def new() -> Any:
    """The form to start a batch"""
    return form_page({})


@blueprint.post("/batches/new")
@streams_form
def start() -> Any:
    """Upload a file and start a batch with it, as one of the keys"""
    max_bytes = services().settings.files_max_bytes
    try:
        form = FileForm(current_request(), file_field="file", fields=FIELDS, max_bytes=max_bytes)
    except PayloadTooLarge as error:  # before the token is read: nothing is done
        return form_page({}, error)
    try:
        # The file is the last field.
        filename = form.open_file()
        check_csrf_token(form.fields.get("csrf_token"))
        batch = start_batch(form, filename)
    except (PayloadTooLarge, StorageQuotaExceeded, ValidationError) as error:
        check_csrf_token(form.fields.get("csrf_token"))
        return form_page(form.fields, error)
    services().batch_work.announce(batch.id)
    return redirect(url_for("batch_pages.one", batch_id=batch.id))


@blueprint.get("/batches/<batch_id>")
def one(batch_id: str) -> Any:
    """One batch: progress, cost, failures, files"""
    batch = _find(batch_id)
    failures = batch.failures
    if failures is None:
        failures = services().batch_lines.failures(batch.id) if batch.failed else {}
    spent, reserved = services().batches.spent(batch)
    last = (batch.ended_at or time.time()) + CLOCKS_DIFFER
    first = batch.created_at - CLOCKS_DIFFER
    errors = batch.errors or []
    return page(
        "batch.html",
        batch=batch,
        state=states_of(services().batches, [batch])[batch.id],
        key_name=names_of_keys().get(batch.key_id, batch.key_id),
        request_is_logged=bool(services().request_search.find(batch.request_id, None)),
        has_key_page=_has_key_page(batch.key_id),
        cancellable=batch.state in CANCELLABLE,
        stopped_by=_stopped_by(batch),
        failures=sorted(failures.items(), key=lambda item: (-item[1], item[0])),
        errors=errors[:ERRORS_SHOWN],
        more_errors=len(errors) - ERRORS_SHOWN,
        files={which: _file(batch, which) for which in FILES},
        file_ids={which: _file_id(batch, which) for which in FILES},
        spent=spent,
        reserved=reserved,
        calls=services().calls.of_batch(batch.id, batch.key_id, first, last, CALLS_SHOWN),
        seconds_left=seconds_left,
    )


@blueprint.get("/batches/<batch_id>/files/<which>")
def download(batch_id: str, which: str) -> Response:
    """Download the input, output or error file of a batch"""
    file = _file(_find(batch_id), which) if which in FILES else None
    if file is None:
        raise NotFound("This file is not stored any more.")
    response = files.download(file)
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Content-Type-Options"] = "nosniff"
    return response


@blueprint.get("/batches/<batch_id>/cancel")
def ask_to_cancel(batch_id: str) -> Any:
    """Confirm the cancellation"""
    return page("cancel_batch.html", batch=_find(batch_id))


@blueprint.post("/batches/<batch_id>/cancel")
def cancel(batch_id: str) -> Any:
    """Cancel a batch: no further line begins"""
    batch = services().batches.cancel(_find(batch_id), actor())
    services().batch_work.announce(batch.id)
    return redirect(url_for("batch_pages.one", batch_id=batch.id))


def seconds_left(batch: Batch) -> float | None:
    """An estimate for a batch in progress, from how long its lines have taken so far."""
    done = batch.total - batch.waiting
    if batch.state is not BatchState.IN_PROGRESS or not done or batch.in_progress_at is None:
        return None
    now = time.time()
    left = (now - batch.in_progress_at) / done * batch.waiting
    return max(0.0, min(left, batch.expires_at - now))


def _find(batch_id: str) -> Batch:
    """A batch or a job. Raises NotFound also for one of another user."""
    if not ID.fullmatch(batch_id):
        raise NotFound
    kind = Kind(batch_id.partition("_")[0])
    return services().batches.find(batch_id, key_ids=visible_ids(), kind=kind)


def _having(kind: Kind, state: str) -> list[ColumnElement[bool]]:
    if kind is Kind.JOB:
        return having(JobStatus(state))
    return [batches.c.state == state]


def _key_ids(sent: str) -> set[int] | None:
    visible = visible_ids()
    if not sent.isdecimal():
        return visible
    chosen = {number_of(sent, LARGEST_ID) or 0}
    return chosen if visible is None else chosen & visible


def _has_key_page(key_id: int) -> bool:
    """The keys of accounts themselves have none."""
    try:
        visible_key(key_id)
    except NotFound:
        return False
    return True


def _file_id(batch: Batch, which: str) -> str | None:
    file_id: str | None = getattr(batch, f"{which}_file_id")
    return file_id


def _file(batch: Batch, which: str) -> StoredFile | None:
    """A file of a batch, if it is still stored."""
    file_id = _file_id(batch, which)
    try:
        return services().files.find(batch.key_id, file_id) if file_id else None
    except NotFound:
        return None


def _stopped_by(batch: Batch) -> str | None:
    error = batch.stopped_by
    return STOPPED_BY.get(error["code"], error["message"]) if error else None
