"""Idempotency-Key: a request that is sent again gets the answer of the first one."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from flask import Blueprint, Response, g, request

from webapp.admission.bodies import decoding_turn, read_body
from webapp.admission.idempotency_store import IdempotencyLease, StoredResponse
from webapp.admission.identity import Principal
from webapp.admission.parts import parts
from webapp.errors import MalformedRequest, StoreUnavailable
from webapp.observability import request_context

log = logging.getLogger(__name__)

HEADER = "Idempotency-Key"
KEY = re.compile(r"[\x21-\x7e]{1,255}")
# What of the headers belongs to the answer, and not to the request that got it.
STORED_HEADERS = (
    "Content-Type",
    "Cache-Control",
    "X-Accel-Buffering",
    "X-Cache",
    "X-Weir-Route",
    "X-Weir-Provider",
    "X-Weir-Attempts",
    "Location",
    "Preference-Applied",
)
# Among the headers of a stored answer whose status is not 200.
STATUS = ":status"
MAX_BODY_BYTES = 4 * 1024 * 1024  # of an answer that is kept

AnyBlueprint = TypeVar("AnyBlueprint", bound=Blueprint)


def idempotent(blueprint: AnyBlueprint) -> AnyBlueprint:
    """Let the requests of a guarded blueprint be repeated. To be said after its body's limit."""
    blueprint.before_request(_enter)
    blueprint.after_request(_leave)
    return blueprint


def _enter() -> Response | None:
    """Hold the key of this request, or answer as the first one with it was answered."""
    key = request.headers.get(HEADER)
    if key is None or request.method != "POST":
        return None
    if not KEY.fullmatch(key):
        raise MalformedRequest(f"{HEADER} must be 1 to 255 visible ASCII characters.")
    fingerprint = _fingerprint(read_body(keep=True))
    if fingerprint is None:
        return None  # the endpoint itself says what is wrong with the body
    principal: Principal = g.principal
    scope = json.dumps([principal.bucket, request.path, key])
    found = parts().idempotency.acquire(hashlib.sha256(scope.encode()).hexdigest(), fingerprint)
    if isinstance(found, StoredResponse):
        request_context.current().replayed = True
        headers = {**found.headers, "Idempotency-Replayed": "true"}
        status = int(headers.pop(STATUS, 200))
        return Response(found.body, status, headers)
    g.idempotency = found
    return None


def _fingerprint(body: bytes) -> str | None:
    """A digest of the body's canonical JSON; None where it is none."""
    try:
        with decoding_turn(body):
            # JSON is UTF-8 (RFC 8259). From bytes, json.loads() would guess UTF-16 too.
            decoded = json.loads(body.decode())
            canonical = json.dumps(decoded, sort_keys=True, separators=(",", ":"))
    except (ValueError, RecursionError):
        return None
    return hashlib.sha256(canonical.encode()).hexdigest()


def _leave(response: Response) -> Response:
    """Keep a good answer once it is complete, and free the key of any other.

    One above MAX_BODY_BYTES is not kept: the database would grow by it with each new key.
    """
    lease: IdempotencyLease | None = g.pop("idempotency", None)
    if lease is None:
        return response
    if not 200 <= response.status_code < 300:
        _try(lambda: parts().idempotency.release(lease))
        return response
    headers = {name: response.headers[name] for name in STORED_HEADERS if name in response.headers}
    if response.status_code != 200:
        headers[STATUS] = str(response.status_code)
    if response.mimetype == "text/event-stream":
        recording = _Recording(lease, headers, response.response)
        response.response = recording
        response.call_on_close(recording.close)
    else:
        body = response.get_data()
        if len(body) > MAX_BODY_BYTES:
            _try(lambda: parts().idempotency.release(lease))
        else:
            _try(lambda: parts().idempotency.finish(lease, headers, body))
    return response


class _Recording:
    """The events of a stream on their way, kept when the last one has come without an error."""

    def __init__(
        self, lease: IdempotencyLease, headers: dict[str, str], events: Iterable[Any]
    ) -> None:
        self._lease: IdempotencyLease | None = lease
        self._headers = headers
        self._events = events
        self._context = request_context.current()
        self._store = parts().idempotency

    def __iter__(self) -> Iterator[bytes]:
        sent: list[bytes] = []
        size = 0
        for event in self._events:
            size += len(event)
            if size > MAX_BODY_BYTES:
                sent.clear()
            else:
                sent.append(event)
                if self._context.complete:
                    self._keep(b"".join(sent))
            yield event

    def _keep(self, body: bytes) -> None:
        lease, self._lease = self._lease, None
        if lease:
            _try(lambda: self._store.finish(lease, self._headers, body))

    def close(self) -> None:
        """The stream is over; if it is not kept, the key is free."""
        lease, self._lease = self._lease, None
        if lease:
            _try(lambda: self._store.release(lease))


def _try(work: Callable[[], None]) -> None:
    """The client gets its answer in any case; a key that stays held is free when its lease ends."""
    try:
        work()
    except StoreUnavailable:
        log.warning("Idempotency-Key not stored: the database is unavailable")
