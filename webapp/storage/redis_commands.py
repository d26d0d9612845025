"""What is asked of Redis, and how it fails, without the client: that imports redis-py, sixty
modules which a Weir without Redis does not need."""

from __future__ import annotations

import hashlib


class RedisUnavailable(Exception):
    """Redis cannot be reached, does not answer in time, or refuses what Weir needs."""


class Script:
    """A Lua script; after its first run it is called by its digest."""

    def __init__(self, text: str, keys: int) -> None:
        self.text = text
        self.keys = keys
        self.digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
