"""`Prefer: respond-async` (RFC 7240): a native request becomes a job, once its body is valid."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

from flask import Response, g, jsonify, request, url_for
from werkzeug.http import parse_list_header

from webapp.admission.identity import Principal
from webapp.batches.callbacks import is_allowed
from webapp.batches.job import WINDOW, JobRequest, JobStatus
from webapp.errors import ValidationError
from webapp.observability import request_context
from webapp.services import services
from webapp.setting_parsers import host as parse_host

PREFERENCE = "respond-async"
CALLBACK_HEADER = "X-Weir-Callback"
MAX_CALLBACK_LENGTH = 2_048


def is_wanted() -> bool:
    """Whether the client prefers to be answered later."""
    if "HTTP_PREFER" not in request.environ:
        return False
    preferences = parse_list_header(request.headers["Prefer"])
    return any(re.split(r"[;=\s]", one, maxsplit=1)[0].lower() == PREFERENCE for one in preferences)


def refuse_callback() -> None:
    """Raise ValidationError for a callback that nothing would send, as there is no job."""
    if "HTTP_X_WEIR_CALLBACK" in request.environ:
        raise _invalid(CALLBACK_HEADER, f"Needs the header Prefer: {PREFERENCE}.")


def defer(body: Any) -> Response:
    """The response for a new job. `body` is the request's JSON. Raises ValidationError."""
    if isinstance(body, dict) and body.get("stream"):
        raise _invalid("stream", f"Not possible with Prefer: {PREFERENCE}.")
    callback_url = _callback_url()
    principal: Principal = g.principal
    parts = services()
    wanted = JobRequest(request.path, request.headers.get("Cache-Control"), body)
    job = parts.batches.create_job(
        key_id=principal.key_id,
        endpoint=request.path.removeprefix("/v1"),
        request=wanted.to_bytes(),
        callback_url=callback_url,
        seconds=WINDOW,
        request_id=request_context.current().request_id,
        quota=parts.settings.files_quota_bytes,
    )
    parts.batch_work.announce(job.id)
    response = jsonify({"id": job.id, "status": str(JobStatus.QUEUED)})
    response.status_code = 202
    response.headers["Location"] = url_for("jobs.show", job_id=job.id)
    response.headers["Preference-Applied"] = PREFERENCE
    return response


def _callback_url() -> str | None:
    """Where the client wants to be told. Raises ValidationError."""
    url = request.headers.get(CALLBACK_HEADER)
    if url is None:
        return None
    if len(url) > MAX_CALLBACK_LENGTH or not re.fullmatch(r"[!-~]+", url):
        raise _invalid(
            CALLBACK_HEADER, f"Must be a URL of at most {MAX_CALLBACK_LENGTH:,} visible characters."
        )
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise _invalid(CALLBACK_HEADER, "Must be a URL.") from None
    if host is not None:
        try:
            parse_host(host)  # urlsplit() lets any character through, as a backslash
        except ValueError:
            raise _invalid(CALLBACK_HEADER, "Must name a host.") from None
    if parts.scheme != "https" or not host:
        raise _invalid(CALLBACK_HEADER, "Must begin with https://.")
    if "@" in parts.netloc or "#" in url or port not in {None, 443}:
        raise _invalid(CALLBACK_HEADER, "Must have no user, no fragment and no port but 443.")
    if not is_allowed(host, services().settings.callback_hosts):
        raise _invalid(CALLBACK_HEADER, "Its host is not in CALLBACK_HOSTS.")
    return url


def _invalid(name: str, reason: str) -> ValidationError:
    return ValidationError(f"The request is not valid: {name}.", details={name: [reason]})
