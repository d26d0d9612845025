"""The API endpoints, one blueprint per file, listed here."""

from __future__ import annotations

from flask import Flask

from webapp.api import (
    batches,
    chat,
    completions,
    embeddings,
    errors,
    explain,
    files,
    generate,
    health,
    home,
    hooks,
    jobs,
    key,
    messages,
    metrics,
    models,
    openapi,
    paths,
    predict,
    responses,
    stats,
    summarize,
    token,
)
from webapp.api.admin import accounts, audit, keys, stream_check, usage
from webapp.services import Services

# In the order of the documentation. Each is served at the root and under /v1.
ENDPOINTS = (
    chat.blueprint,
    summarize.blueprint,
    generate.blueprint,
    predict.blueprint,
    predict.listing,
    jobs.blueprint,
    stats.blueprint,
    metrics.blueprint,
    health.blueprint,
    home.blueprint,
    token.blueprint,
)
# At the root only, under /admin.
ADMIN_ENDPOINTS = (
    keys.blueprint,
    accounts.blueprint,
    usage.blueprint,
    audit.blueprint,
    stream_check.blueprint,
)
# Under /v1 only, as the next ones.
ANTHROPIC_ENDPOINTS = (messages.blueprint,)
OPENAI_ENDPOINTS = (
    completions.blueprint,
    embeddings.blueprint,
    responses.blueprint,
    responses.kept,
    batches.creation,
    batches.blueprint,
    models.blueprint,
    key.blueprint,
    explain.make_blueprint(
        [
            module.blueprint.model_endpoint
            for module in (
                completions,
                embeddings,
                responses,
                messages,
                chat,
                generate,
                summarize,
            )
        ],
        completions.EXAMPLE,
    ),
    files.uploads,
    files.blueprint,
)


def register(app: Flask, services: Services) -> None:
    """Register all endpoints."""
    paths.register(app)
    hooks.register(app, services)
    api = openapi.configure(app)
    errors.register(app)  # replaces smorest's handlers, whose error format differs
    app.extensions["weir.api"] = api
    for endpoint in ENDPOINTS:
        api.register_blueprint(endpoint)
    for endpoint in (*ENDPOINTS, openapi.blueprint):
        app.register_blueprint(endpoint, url_prefix="/v1", name=f"{endpoint.name}_v1")
    app.register_blueprint(openapi.blueprint)
    for endpoint in ADMIN_ENDPOINTS:
        api.register_blueprint(endpoint, url_prefix="/admin")
    app.extensions["weir.native_paths"] = {rule.rule for rule in app.url_map.iter_rules()}
    for endpoint in (*ANTHROPIC_ENDPOINTS, *OPENAI_ENDPOINTS):
        api.register_blueprint(endpoint, url_prefix="/v1")
