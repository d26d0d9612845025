"""create_app(): the Flask application, with all its parts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from flask import Flask, request
from flask.json.provider import DefaultJSONProvider

from webapp import api, cli, dashboard
from webapp.admission import limits
from webapp.admission.bodies import BodyBudget
from webapp.admission.parts import AdmissionParts, bind
from webapp.api.blueprint import FORM_BYTES
from webapp.assembly import assemble
from webapp.extensions import cors
from webapp.forwarded import Forwarded
from webapp.frozen_process import FinishBeforeTheEnd
from webapp.library_internals import late_builder_rule, take_latest_after_request
from webapp.settings import Settings, load

ROOT = Path(__file__).resolve().parent.parent
# What programs in browsers may read, of all that responses carry (tests/api/test_cors.py).
EXPOSED = [
    "Age", "Allow", "Content-Disposition", "Idempotency-Replayed", "Location",
    "Preference-Applied", "Retry-After", "WWW-Authenticate", "X-Cache", "X-Process-Time",
    "X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset", "X-Request-ID",
    "X-Weir-Attempts", "X-Weir-Cost-USD", "X-Weir-Provider", "X-Weir-Route",
    "request-id", "retry-after-ms", "x-should-retry",
    *(
        name
        for what in ("requests", "tokens")
        for figure in ("limit", "remaining", "reset")
        for name in (f"x-ratelimit-{figure}-{what}", f"anthropic-ratelimit-{what}-{figure}")
    ),
]  # fmt: skip


class PlainJSON(DefaultJSONProvider):
    """Fields in the order they were given; escaped, as half a surrogate pair has no bytes."""

    sort_keys = False


class WeirFlask(Flask):
    """Flask without what Weir does not use and every request or start would pay for."""

    url_rule_class = late_builder_rule()

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """No view is a coroutine."""
        return func


def create_app(settings: Settings | None = None, *, batch_worker: bool = False) -> Flask:
    """The application, for serving or for a process that works on batches alone.

    Raises SettingsError where it must not start.
    """
    settings = settings or load()
    app = WeirFlask(__name__, static_folder=ROOT / "static", template_folder=ROOT / "templates")
    app.json = PlainJSON(app)
    # Of what has no limit of its own. It also lets Werkzeug see how a chunked body ends.
    app.config["MAX_CONTENT_LENGTH"] = min(FORM_BYTES, settings.max_body_bytes)
    services = app.extensions["weir"] = assemble(app, settings, batch_worker=batch_worker)

    admission = AdmissionParts(
        services.identities,
        services.rate_limits,
        services.idempotency,
        services.sessions,
        BodyBudget(settings.max_body_bytes_in_flight),
    )
    bind(app, admission)
    limits.configure(app)
    if settings.allowed_origins:
        origins = list(settings.allowed_origins)
        cors.init_app(app, origins=origins, expose_headers=EXPOSED, always_send=False)
        # Only browsers send an Origin; nobody else needs to pay for the headers.
        answer_browsers = take_latest_after_request(app)
        app.after_request(lambda r: answer_browsers(r) if "Origin" in request.headers else r)
    app.wsgi_app = Forwarded(app.wsgi_app, settings.trusted_proxies)  # type: ignore[method-assign]
    if settings.platform == "lambda":
        finish = services.lifecycle.finish_request
        app.wsgi_app = FinishBeforeTheEnd(app.wsgi_app, finish)  # type: ignore[method-assign]

    api.register(app, services)
    dashboard.register(app, services)
    cli.register(app)
    return app
