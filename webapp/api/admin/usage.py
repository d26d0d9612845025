"""/admin/usage and /admin/ledger: usage, costs and provider calls, as JSON or CSV."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

from flask import Response, request

from webapp import json_codec
from webapp.admission import admins_only
from webapp.api.admin.schemas import LedgerAnswer, LedgerQuery, UsageAnswer, UsageQuery
from webapp.api.blueprint import Blueprint, validated
from webapp.api.openapi import ADMIN, errors_of, query_of
from webapp.errors import ValidationError
from webapp.metering.csv import lines
from webapp.metering.usage import DIMENSIONS, Selection
from webapp.services import services

blueprint = admins_only(Blueprint("admin_usage", __name__, description="Usage and costs"))

DEFAULT_RANGE = timedelta(days=29)
MAX_RANGE = timedelta(days=400)


@blueprint.get("/usage")
@blueprint.doc(security=ADMIN, parameters=query_of(UsageQuery))
@errors_of(401, 403, 422, 503)
@blueprint.response(200, UsageAnswer)
def usage() -> Any:
    """Calls, tokens and costs, by day, key, provider, model or endpoint"""
    query = validated(UsageQuery(), request.args.to_dict())
    until = query["until"] or datetime.now(UTC).date()
    since = query["since"] or max(until, date.min + DEFAULT_RANGE) - DEFAULT_RANGE
    if not timedelta(0) <= until - since <= MAX_RANGE:
        reason = f"Must be before `until`, and at most {MAX_RANGE.days} days."
        raise ValidationError("The request is not valid: since.", details={"since": [reason]})
    by = query["by"].split(",")
    if unknown := [name for name in by if name not in DIMENSIONS]:
        reason = f"Must be some of {', '.join(DIMENSIONS)}, not {unknown[0]!r}."
        raise ValidationError("The request is not valid: by.", details={"by": [reason]})
    filters = (query["key"], query["provider"], query["model"], query["endpoint"])
    rows = services().usage.report(Selection(since, until, *filters), by)
    if _wants_csv(query):
        return _csv(rows, f"usage-{since}-{until}.csv")
    total = services().usage.report(Selection(since, until, *filters), [])
    report = {"since": since, "until": until, "rows": rows, "total": total[0]}
    # Flask's own JSON is too slow for tens of thousands of rows.
    return Response(json_codec.dumps(report), mimetype="application/json")


@blueprint.get("/ledger")
@blueprint.doc(security=ADMIN, parameters=query_of(LedgerQuery))
@errors_of(401, 403, 422, 503)
@blueprint.response(200, LedgerAnswer)
def ledger() -> Any:
    """List provider calls, newest first"""
    query = validated(LedgerQuery(), request.args.to_dict())
    rows = services().calls.latest(
        request_id=query["request_id"],
        key_id=query["key"],
        before=query["before"],
        count=query["limit"],
    )
    return _csv(rows, "ledger.csv") if _wants_csv(query) else {"calls": rows}


def _wants_csv(query: dict[str, Any]) -> bool:
    accepted = request.accept_mimetypes
    prefers = accepted.best_match(["application/json", "text/csv"]) == "text/csv"
    return query["format"] == "csv" or (query["format"] is None and prefers)


def _csv(rows: list[dict[str, Any]], name: str) -> Response:
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return Response("".join(lines(rows)), mimetype="text/csv", headers=headers)
