"""The check of secrets that settings refer to."""

from __future__ import annotations

import json
from collections.abc import Iterator

from geventhttpclient.response import HTTPParseError

from webapp.diagnosis.finding import Finding
from webapp.diagnosis.http_request import get
from webapp.services import Services


def check_secrets(services: Services, url: str) -> Iterator[Finding]:
    """Without all of them this process would not have started; one that runs may have old ones."""
    references = services.settings.secret_references
    if references:
        yield Finding("secrets", "ok", f"read: {', '.join(sorted(references))}")
    if not url:
        return
    try:
        checks = json.loads(get(url + "/health/detailed").read())["checks"]
    except (OSError, HTTPParseError, RuntimeError, ValueError, KeyError, TypeError):
        return  # reported by the check of the address
    if stale := checks.get("secrets", {}).get("error"):
        yield Finding(
            "secrets", "warning", f"Weir at this address: {stale}",
            "See the log. It is read again within SECRETS_REFRESH seconds.",
        )  # fmt: skip
