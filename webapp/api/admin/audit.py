"""/admin/audit: the audit log: who changed what, when and from where."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from flask import request

from webapp.accounts.audit import EventFilter
from webapp.admission import admins_only
from webapp.api.admin.schemas import AuditAnswer, AuditQuery
from webapp.api.blueprint import Blueprint, validated
from webapp.api.openapi import ADMIN, errors_of, query_of
from webapp.services import services

blueprint = admins_only(Blueprint("admin_audit", __name__, description="The audit log"))


@blueprint.get("/audit")
@blueprint.doc(security=ADMIN, parameters=query_of(AuditQuery))
@errors_of(401, 403, 422, 503)
@blueprint.response(200, AuditAnswer)
def audit() -> dict[str, Any]:
    """List audit events, newest first"""
    query = validated(AuditQuery(), request.args.to_dict())
    wanted = EventFilter(targets=None if query["target"] is None else [query["target"]])
    events = services().audit.latest(wanted, before_id=query["before"], count=query["limit"])
    return {"events": [asdict(event) | {"at": event.at.isoformat()} for event in events]}
