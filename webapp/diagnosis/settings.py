"""Checks of settings, and of the number of workers that follows from them."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping

from webapp.diagnosis.finding import Finding
from webapp.named_settings import PROVIDER_VARIABLE, TIER_VARIABLE
from webapp.services import Services
from webapp.setting_parsers import DEMO_SECRETS
from webapp.settings import table
from webapp.worker_count import worker_count


def check_settings(services: Services, environment: Mapping[str, str]) -> Iterator[Finding]:
    settings = services.settings
    yield Finding("settings", "ok", f"valid for {settings.app_env}")
    known = {field.metadata["variable"] for field in table()}
    for name in sorted(environment):
        if name in known or PROVIDER_VARIABLE.fullmatch(name) or TIER_VARIABLE.fullmatch(name):
            continue
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.85)
        if near or name.startswith(("PROVIDER_", "TIER_")):
            meant = near[0] if near else "another setting"
            yield Finding("settings", "warning", f"{name} is unknown", f"Did you mean {meant}?")
    demo = any(key.secret in DEMO_SECRETS for key in settings.api_keys)
    if demo and settings.host not in {"127.0.0.1", "::1", "localhost"}:
        yield Finding(
            "settings", "warning", "the demo keys are public knowledge",
            "Set API_KEYS, or APP_ENV=production.",
        )  # fmt: skip
    if settings.production and services.database.is_sqlite:
        yield Finding(
            "settings", "warning", "SQLite in production",
            "It supports one process. For more, set DATABASE_URL to PostgreSQL.",
        )  # fmt: skip


def check_workers(services: Services) -> Iterator[Finding]:
    count, why = worker_count(services.settings)
    wanted = services.settings.web_concurrency
    if wanted and wanted > count:
        advice = "Set REDIS_URL, or WEB_CONCURRENCY=1."
        yield Finding("workers", "warning", f"{count} of {wanted} started", advice)
    else:
        yield Finding("workers", "ok", f"{count} ({why})")
