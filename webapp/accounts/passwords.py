"""Passwords of accounts: hashed with scrypt in a thread, outside the event loop."""

from __future__ import annotations

from functools import cache

from gevent.lock import BoundedSemaphore
from werkzeug.security import check_password_hash, generate_password_hash

from webapp.threads import run_in_thread

MIN_LENGTH, MAX_LENGTH = 8, 256  # characters
# Each hash takes 32 MB while it runs.
_running = BoundedSemaphore(2)


def hashed(password: str) -> str:
    """The hash of a password, as stored."""
    with _running:
        return run_in_thread(lambda: generate_password_hash(password))


def verify(stored_hash: str | None, password: str) -> bool:
    """Whether the password matches the hash. Takes as long without a hash to compare with."""
    with _running:
        right = run_in_thread(lambda: check_password_hash(stored_hash or _dummy_hash(), password))
    return right and stored_hash is not None


@cache
def _dummy_hash() -> str:
    return generate_password_hash("nobody has this password")
