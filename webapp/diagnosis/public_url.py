"""Checks of the public address, and of what is in front of Weir."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from itertools import pairwise

from geventhttpclient.response import HTTPParseError

from webapp.diagnosis.finding import Finding
from webapp.diagnosis.http_request import get, request
from webapp.services import Services

EVENT_INTERVAL = 0.2


def check_url(url: str) -> Iterator[Finding]:
    for path in ("/liveness", "/readiness"):
        try:
            status = get(url + path).status_code
        except (OSError, HTTPParseError, RuntimeError, ValueError) as error:
            found = f"{path} cannot be reached ({type(error).__name__})"
            yield Finding("url", "problem", found, "Check the address and its certificate.")
            return
        if status != 200:
            advice = "See the logs of Weir and of the proxy."
            yield Finding("url", "problem", f"{path} answers {status}", advice)
            return
    yield Finding("url", "ok", "alive and ready")
    sent = {"X-Request-ID": "weir-doctor"}
    if get(url + "/liveness", sent).get("x-request-id") != "weir-doctor":
        yield Finding(
            "url", "warning", "X-Request-ID is not passed through",
            "Configure the proxy to pass headers in both directions.",
        )  # fmt: skip


def check_streaming(services: Services, url: str) -> Iterator[Finding]:
    settings = services.settings
    if not settings.admin_password:
        yield Finding(
            "streaming", "warning", "not checked: needs an administrator token",
            "Run it where ADMIN_USERNAME and ADMIN_PASSWORD are set.",
        )  # fmt: skip
        return
    body = {"username": settings.admin_username, "password": settings.admin_password}
    answer = request("POST", url + "/token", body=body)
    if answer.status_code != 200:
        yield Finding(
            "streaming", "warning", f"not checked: /token answers {answer.status_code}",
            "Check ADMIN_PASSWORD: the password may have been changed since.",
        )  # fmt: skip
        return
    token = json.loads(answer.read())["access_token"]
    headers = {"Authorization": f"Bearer {token}"}
    arrivals = []
    events = request("GET", url + "/admin/stream-check", headers)
    while line := events.readline(b"\n"):
        if line.startswith(b"data:"):
            arrivals.append(time.monotonic())
    gaps = [later - earlier for earlier, later in pairwise(arrivals)]
    if gaps and min(gaps) > EVENT_INTERVAL / 4:
        yield Finding("streaming", "ok", "events arrive unbuffered")
    else:
        yield Finding(
            "streaming", "problem", "events arrive together: a proxy buffers them",
            "Disable buffering in the proxy (nginx: proxy_buffering off).",
        )  # fmt: skip
