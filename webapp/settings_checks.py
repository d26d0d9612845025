"""What is wrong with settings that are complete and parsed, each problem with a fix.

`settings` are the values by their names in `Settings`.
"""

from __future__ import annotations

import errno
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from webapp.setting_parsers import DEMO_SECRETS

KNOWN_SECRET_KEYS = frozenset(
    """
    secret secret_key secret-key secretkey your-secret-key your_secret_key mysecret supersecret
    changeme change-me change_me replace-me dev development test password default
    """.split()  # noqa: SIM905 a list would take twenty lines
)


def weaknesses(settings: Mapping[str, Any]) -> list[str]:
    """The problems that prevent the start, each with a fix."""
    # By number: an entry whose parts are mixed up has the key in another place.
    problems = [
        f"API_KEYS: entry {number} has an unknown tier (TIERS has {', '.join(settings['tiers'])})"
        for number, key in enumerate(settings["api_keys"], 1)
        if key.tier not in settings["tiers"]
    ]
    if not re.fullmatch(r"[A-Za-z0-9._@-]{1,100}", settings["admin_username"]):
        problems.append("ADMIN_USERNAME must be 1 to 100 letters, digits or any of . _ @ -")
    names = [provider.name for provider in settings["providers"]]
    problems += [
        f"MODEL_ROUTES: {route} names the unknown provider {model.provider} (configured: "
        f"{', '.join(names) or 'none'})"
        for route, models in settings["model_routes"].items()
        for model in models
        if model.provider not in names
    ]
    if settings["alert_webhook_url"] and not settings["alert_webhook_secret"]:
        problems.append(
            "ALERT_WEBHOOK_SECRET must be set, as ALERT_WEBHOOK_URL is "
            "(echo whsec_$(openssl rand -base64 32))"
        )
    if settings["callback_hosts"] and not settings["callback_secret"]:
        problems.append(
            "CALLBACK_SECRET must be set, as CALLBACK_HOSTS is "
            "(echo whsec_$(openssl rand -base64 32))"
        )
    if settings["app_env"] != "production":
        return problems
    known = settings["secret_key"].lower() in KNOWN_SECRET_KEYS
    if known or len(settings["secret_key"]) < 16:
        problems.append(
            "SECRET_KEY must be set to a random value of at least 16 characters "
            "(openssl rand -base64 32)"
        )
    if len(settings["admin_password"]) < 12:
        problems.append(
            "ADMIN_PASSWORD must be set, at least 12 characters (openssl rand -base64 18)"
        )
    if settings["metrics_token"] and len(settings["metrics_token"]) < 16:
        problems.append(
            "METRICS_TOKEN must be at least 16 characters (openssl rand -base64 32), or not set"
        )
    if settings["debug"]:
        problems.append("DEBUG must not be set in production")
    for number, key in enumerate(settings["api_keys"], 1):
        if key.secret in DEMO_SECRETS:
            problems.append(f"API_KEYS: entry {number} is a demo key; choose a key of your own")
        elif not re.fullmatch(r"[A-Za-z0-9_-]{16,}", key.secret):
            problems.append(
                f"API_KEYS: the key of entry {number} must be at least 16 characters of "
                "[A-Za-z0-9_-]"
            )
    ephemeral = settings["platform"] and settings["database_url"].startswith("sqlite")
    if ephemeral and not settings["allow_ephemeral_sqlite"]:
        problems.append(
            "DATABASE_URL must name a PostgreSQL database (each deploy erases SQLite here; "
            "ALLOW_EPHEMERAL_SQLITE=true allows that)"
        )
    return problems


def unwritable(settings: Mapping[str, Any]) -> Iterator[str]:
    """The problem of an SQLite file that cannot be written, as under another user's folder."""
    if not settings["database_url"].startswith("sqlite"):
        return
    file = Path(settings["database_url"].removeprefix("sqlite:///"))
    in_data_dir = file == settings["data_dir"].resolve() / "weir.db"
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # SQLite adds files beside its own. That one is not opened: closing it would end its locks.
        with tempfile.TemporaryFile(dir=file.parent):
            if file.exists() and not os.access(file, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        setting = "DATA_DIR must be a folder" if in_data_dir else "DATABASE_URL must name a file"
        yield f"{setting} that user {os.geteuid()} may write to: {error.strerror}"
