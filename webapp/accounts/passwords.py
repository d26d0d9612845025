"""Passwords of accounts: hashed with scrypt, a memory-hard function, beside gevent's loop."""

from __future__ import annotations

from functools import cache

from gevent.lock import BoundedSemaphore
from werkzeug.security import check_password_hash, generate_password_hash

from webapp.threads import run_in_thread

MIN_DURATION, LONGEST = 8, 256
# Each takes 32 MB while it runs.
_running = BoundedSemaphore(2)


def hashed(password: str) -> str:
    """What is kept of a password."""
    with _running:
        return run_in_thread(lambda: generate_password_hash(password))


def verify(kept: str | None, password: str) -> bool:
    """Whether a password is the one that was kept; as slow where there is none to compare with."""
    with _running:
        right = run_in_thread(lambda: check_password_hash(kept or _nobodys(), password))
    return right and kept is not None


@cache
def _nobodys() -> str:
    return generate_password_hash("nobody has this password")
