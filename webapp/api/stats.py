"""GET /stats: requests, cache hits and costs of the whole service."""

from __future__ import annotations

from typing import Any

from webapp.admission import check_admin, credential_sent, identify, public
from webapp.admission.credential_limits import count_public_stats
from webapp.admission.identity import NO_CREDENTIAL
from webapp.api.blueprint import Blueprint
from webapp.api.openapi import errors_of
from webapp.api.schemas import StatsSchema
from webapp.errors import NotAllowed
from webapp.services import services

blueprint = public(Blueprint("stats", __name__, description="Statistics"))


@blueprint.get("/stats")
@errors_of(400, 401, 403, 429, 503)
@blueprint.response(200, StatsSchema)
def stats() -> dict[str, Any]:
    """Statistics of all workers since the first start; more with a credential"""
    access = services().settings.stats_access
    if not credential_sent():
        if access != "public":
            raise NotAllowed(NO_CREDENTIAL)
        count_public_stats()
        return services().stats.report(None)
    principal = identify()
    if access == "admin":
        check_admin(principal)
    return services().stats.report(principal.key_id)
