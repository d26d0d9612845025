"""GET /metrics: metrics for Prometheus."""

from __future__ import annotations

import hmac

from flask import Response, request

from webapp.admission import public
from webapp.admission.credential_limits import count_failed_credential
from webapp.api.blueprint import Blueprint
from webapp.api.openapi import errors_of
from webapp.errors import NotAllowed, NotAuthenticated
from webapp.observability.exposition import CONTENT_TYPE, exposition
from webapp.services import services

blueprint = public(Blueprint("metrics", __name__, description="Metrics"))


@blueprint.get("/metrics")
@blueprint.doc(security=[{}, {"Bearer": []}])
@errors_of(401, 403, 429)
@blueprint.response(200, content_type="text/plain")
def metrics() -> Response:
    """Metrics of all workers, for Prometheus; in production METRICS_TOKEN is the bearer token"""
    if services().settings.production:
        _check_token()
    return Response(exposition(services().gauges), content_type=CONTENT_TYPE)


def _check_token() -> None:
    """Raises NotAllowed without a token, and NotAuthenticated for a wrong one."""
    expected = services().settings.metrics_token
    sent = request.headers.get("Authorization", "")
    if not sent:
        raise NotAllowed("Metrics token required. Send METRICS_TOKEN as Authorization: Bearer.")
    scheme, _, token = sent.partition(" ")
    is_right = hmac.compare_digest(token.strip().encode(), expected.encode())
    if not expected or scheme.lower() != "bearer" or not is_right:
        count_failed_credential()
        raise NotAuthenticated("Invalid metrics token.")
