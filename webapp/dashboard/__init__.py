"""The dashboard's pages, one blueprint per file, listed here."""

from __future__ import annotations

from flask import Flask

from webapp.dashboard import (
    accounts,
    audit,
    batches,
    formatting,
    keys,
    me,
    overview,
    playground,
    providers,
    requests,
    session,
)
from webapp.dashboard.session import SESSION_TTL, DashboardSessions, secret_of
from webapp.services import Services

PREFIX = "/dashboard"
# In the order of the navigation.
PAGES = (
    session.blueprint,
    overview.blueprint,
    keys.blueprint,
    requests.blueprint,
    batches.blueprint,
    providers.blueprint,
    playground.blueprint,
    accounts.blueprint,
    audit.blueprint,
    me.blueprint,
)


def register(app: Flask, services: Services) -> None:
    """Register all pages of the dashboard."""
    app.secret_key = secret_of(services.settings.secret_key)
    app.session_interface = DashboardSessions()
    app.permanent_session_lifetime = SESSION_TTL
    # A response that is still on its way at sign-out must not restore the session.
    app.config["SESSION_REFRESH_EACH_REQUEST"] = False
    app.config["WTF_CSRF_TIME_LIMIT"] = None  # as long as the session
    formatting.register(app)
    for page in PAGES:
        app.register_blueprint(page, url_prefix=PREFIX)
