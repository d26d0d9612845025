"""The doors for programs: one blueprint a file, listed here."""

from __future__ import annotations

from flask import Flask

from webapp.api import (
    chat,
    completions,
    documents,
    embeddings,
    errors,
    explain,
    generate,
    health,
    home,
    hooks,
    key,
    metrics,
    models,
    predict,
    stats,
    summarize,
    token,
)
from webapp.api.admin import accounts, audit, keys, stream_check, usage
from webapp.services import Services

# In the order of the documentation. Each is served at the root and under /v1.
DOORS = (
    chat.blueprint,
    summarize.blueprint,
    generate.blueprint,
    predict.blueprint,
    predict.listing,
    stats.blueprint,
    metrics.blueprint,
    health.blueprint,
    home.blueprint,
    token.blueprint,
)
# At the root only, under /admin.
ADMIN_DOORS = (
    keys.blueprint,
    accounts.blueprint,
    usage.blueprint,
    audit.blueprint,
    stream_check.blueprint,
)
# Under /v1 only.
OPENAI_DOORS = (
    completions.blueprint,
    embeddings.blueprint,
    models.blueprint,
    key.blueprint,
    explain.blueprint,
)


def register(app: Flask, services: Services) -> None:
    """Open all doors of the application."""
    hooks.register(app, services)
    errors.register(app)
    api = documents.configure(app)
    app.extensions["weir.api"] = api
    for door in DOORS:
        api.register_blueprint(door)
    for door in (*DOORS, documents.blueprint):
        app.register_blueprint(door, url_prefix="/v1", name=f"{door.name}_v1")
    app.register_blueprint(documents.blueprint)
    for door in ADMIN_DOORS:
        api.register_blueprint(door, url_prefix="/admin")
    app.extensions["weir.native_paths"] = {rule.rule for rule in app.url_map.iter_rules()}
    for door in OPENAI_DOORS:
        api.register_blueprint(door, url_prefix="/v1")
