"""GET /admin/stream-check: five events, 0.2 s apart, to detect a proxy that buffers them."""

from __future__ import annotations

import time
from collections.abc import Iterator

from flask import Response

from webapp.admission import admins_only
from webapp.api.blueprint import Blueprint
from webapp.api.openapi import ADMIN, EVENT, errors_of

blueprint = admins_only(
    Blueprint("admin_stream_check", __name__, description="Streaming check of flask doctor")
)

EVENTS = 5
EVENT_INTERVAL = 0.2  # seconds


@blueprint.get("/stream-check")
@blueprint.doc(
    security=ADMIN, responses={200: {"content": {"text/event-stream": {"schema": EVENT}}}}
)
@errors_of(401, 403, 503)
@blueprint.response(200)
def stream_check() -> Response:
    """Five events, 0.2 s apart"""
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return Response(_events(), mimetype="text/event-stream", headers=headers)


def _events() -> Iterator[bytes]:
    for number in range(EVENTS):
        if number:
            time.sleep(EVENT_INTERVAL)
        yield f"data: {number}\n\n".encode()
