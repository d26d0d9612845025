"""Secrets in files (`file:///run/secrets/x`): Docker's, Kubernetes', a driver's volume."""

from __future__ import annotations

import os
from urllib.parse import unquote

from webapp.secrets_managers.reference import SecretError

MAX_BYTES = 64 * 1024


class Manager:
    def read(self, name: str) -> str:
        try:
            # What is no file must not keep Weir waiting.
            with open(os.open(unquote(name), os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
                content = file.read(MAX_BYTES + 1)
        except OSError as error:
            raise SecretError(f"cannot be read: {error.strerror}") from None
        if len(content) > MAX_BYTES:
            raise SecretError(f"has more than {MAX_BYTES} bytes")
        return content.decode("utf-8-sig")
