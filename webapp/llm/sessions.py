"""The session of a request: what its client calls it, or else its key."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from webapp.errors import MalformedRequest, SessionLimitExceeded

HEADER = "X-Weir-Session"
NAME = re.compile(r"[!-~]{1,256}")
# What agents call it, in this order: fields of the body, then headers, then `metadata.user_id`.
FIELDS = ("prompt_cache_key", "session_id")
AGENT_HEADERS = (
    "X-Claude-Code-Session-Id",
    "Session-Id",  # Codex
    "X-Session-Id",  # opencode
)
# Claude Code's `metadata.user_id` is a JSON object, and was such a text before.
MARK = "_session_"

TTL = 86_400  # seconds without a request after which a session ends
FULL_LABEL = 12  # characters of a name that is not shortened


@dataclass(frozen=True, slots=True)
class Session:
    """A session of a key. Without a name it is the key itself."""

    name: str | None = None

    @property
    def id(self) -> str:
        """Under which it is stored: names may be long, and may have any character."""
        name = (self.name or "").encode("utf-8", "surrogatepass")
        return f"session_{hashlib.sha256(name).hexdigest()[:32]}"

    @property
    def label(self) -> str:
        """The name as errors and pages have it: shortened, as it may say who the user is."""
        if self.name is None:
            return "of this key"
        name = re.sub(r"[^!-~]", "?", self.name)
        return name if len(name) <= FULL_LABEL else f"{name[:8]}…{name[-4:]}"


def session_of(headers: Mapping[str, str], body: Mapping[str, Any]) -> Session:
    """The session that a request belongs to. Raises MalformedRequest."""
    named = headers.get(HEADER)
    if named is not None:
        if not NAME.fullmatch(named):
            raise MalformedRequest(f"{HEADER} must be 1 to 256 visible ASCII characters.")
        return Session(named)
    for name in FIELDS:
        if (value := body.get(name)) and isinstance(value, str):
            return Session(value)
    for name in AGENT_HEADERS:
        if value := headers.get(name):
            return Session(value)
    metadata = body.get("metadata")
    user = metadata.get("user_id") if isinstance(metadata, Mapping) else None
    return Session(_of_user(user)) if user and isinstance(user, str) else Session()


def _of_user(user: str) -> str:
    """The session in a `metadata.user_id`; all of it where it has none."""
    if user.startswith("{"):
        try:
            found = json.loads(user)
        except (ValueError, RecursionError):
            return user
        named = found.get("session_id")
        return named if named and isinstance(named, str) else user
    return user.partition(MARK)[2] or user


def exceeded(
    session: str, limit: str, left: str, details: Mapping[str, Any]
) -> SessionLimitExceeded:
    """The error of a session, by its label, that has used up a limit; `left` says how much."""
    return SessionLimitExceeded(
        f"Session {session} {left} ({limit}). A session ends after 24 h without a request.",
        details={"limit": limit, "session": session, **details},
        retry_after=TTL,
    )
