"""GET /: service, version and links, as JSON or as a page."""

from __future__ import annotations

from typing import Any

from flask import Response, render_template, request

from webapp import local_model
from webapp.admission import public
from webapp.api.blueprint import Blueprint
from webapp.services import services
from webapp.version import VERSION

blueprint = public(Blueprint("home", __name__, description="Service"))

POLICY = "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; " + (
    "form-action 'none'; frame-ancestors 'none'"
)
LINKS = {
    "dashboard": "/dashboard/",
    "docs": "/docs",
    "redoc": "/redoc",
    "openapi": "/openapi.json",
    "health": "/health",
    "stats": "/stats",
    "metrics": "/metrics",
}


@blueprint.get("/", strict_slashes=False)
@blueprint.response(200)
def home() -> Any:
    """Service, version and links"""
    accepted = request.accept_mimetypes.best_match(["application/json", "text/html"])
    if accepted != "text/html":
        links = {name: request.script_root + path for name, path in LINKS.items()}
        return {"service": "weir", "version": VERSION, "links": links}, 200, {"Vary": "Accept"}
    settings = services().settings
    page = render_template(
        "landing.html",
        version=VERSION,
        base_url=request.url_root.rstrip("/"),
        offline=not settings.has_provider,
        local_model=local_model.label(),
        example_key="YOUR-KEY" if settings.production else "prod_key_456",
    )
    return Response(page, headers={"Content-Security-Policy": POLICY, "Vary": "Accept"})
