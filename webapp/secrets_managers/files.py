"""Secrets in files (`file:///run/secrets/x`): Docker's, Kubernetes', a driver's volume."""

from __future__ import annotations

import os
from urllib.parse import unquote

from webapp.secrets_managers.reference import SecretError

MAX_BYTES = 64 * 1024


class Manager:
    def read(self, name: str) -> str:
        try:
            with open(unquote(name), "rb", opener=_without_waiting) as file:
                content = file.read(MAX_BYTES + 1)
        except OSError as error:
            raise SecretError(f"cannot be read: {error.strerror}") from None
        if len(content) > MAX_BYTES:
            raise SecretError(f"has more than {MAX_BYTES} bytes")
        return content.decode("utf-8-sig")


def _without_waiting(path: str, flags: int) -> int:
    """What is no file (a pipe) must not keep Weir waiting."""
    return os.open(path, flags | os.O_NONBLOCK)
