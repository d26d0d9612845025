"""The sessions of agents at their limits: counted, and refused."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

from flask import g

from webapp.admission.identity import Principal
from webapp.admission.parts import parts
from webapp.admission.session_store import SessionState
from webapp.current_request import current_request
from webapp.errors import SessionLimitExceeded, StoreUnavailable
from webapp.llm import sessions
from webapp.llm.calls import BilledSession
from webapp.llm.sessions import Session

LIMIT = "requests_per_session"
# By their names in the environment of WSGI: looking each of them up by its own takes 4 µs.
_HEADERS = [
    (name, f"HTTP_{name.upper().replace('-', '_')}")
    for name in (sessions.HEADER, *sessions.AGENT_HEADERS)
]


def enter(session: Session) -> bool:
    """Count this request to its session, where that is limited.

    False where that is not possible: the database is unavailable. Raises SessionLimitExceeded.
    """
    principal: Principal = g.principal
    allowance = principal.allowance
    if allowance.requests_per_session is None and allowance.usd_per_session is None:
        return True
    try:
        entered = parts().sessions.enter(principal.key_id, session, allowance.requests_per_session)
    except StoreUnavailable:
        return False
    if not entered:
        raise _exceeded(session)
    g.session = session
    return True


def check(session: Session) -> None:
    """Raise SessionLimitExceeded if the session of this request has had all of its requests."""
    size = _requests()
    if size is not None and _state(session).requests >= size:
        raise _exceeded(session)


def give_back() -> None:
    """Do not count this request, which a limit has refused, to the session that it entered."""
    session: Session | None = g.pop("session", None)
    if session is None:
        return
    try:
        parts().sessions.give_back(g.principal.key_id, session)
    except StoreUnavailable:
        return


def limit_of(session: Session) -> list[dict[str, Any]]:
    """The limit on the requests of this session as it stands, for clients, if there is one."""
    size = _requests()
    if size is None:
        return []
    state = _state(session)
    return [
        {
            "limit": LIMIT,
            "session": session.label,
            "size": size,
            "used": state.requests,
            "reset": state.ends_at and math.ceil(state.ends_at),
            "remaining": max(0, size - state.requests),
        }
    ]


def billed(session: Session) -> BilledSession | None:
    """What of the session's limits the calls of this request count against."""
    principal: Principal = g.principal
    nano = principal.allowance.usd_per_session
    return None if nano is None else BilledSession(session.id, session.label, nano)


def of_request(body: Mapping[str, Any]) -> Session:
    """The session of this request. Raises MalformedRequest."""
    environ = current_request().environ
    sent = {name: environ[key] for name, key in _HEADERS if key in environ}
    return sessions.session_of(sent, body)


def _requests() -> int | None:
    principal: Principal = g.principal
    return principal.allowance.requests_per_session


def _state(session: Session) -> SessionState:
    return parts().sessions.state(g.principal.key_id, session)


def _exceeded(session: Session) -> SessionLimitExceeded:
    size = _requests()
    details = {"size": size, "used": size, "reset": math.ceil(time.time() + sessions.TTL)}
    return sessions.exceeded(session.label, LIMIT, f"has had its {size} requests", details)
