"""A reference to a secret (`aws-sm://name#field`), and what the text that it leads to is worth."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

# By scheme, what follows it, and how to write it.
SCHEMES = {
    "aws-sm": (r"arn:[\w-]+:secretsmanager:[\w-]+:\d*:secret:[^\s:]+|[^\s:]+", "aws-sm://name"),
    "gcp-sm": (
        r"[^\s/]+/[^\s/]+(?:/[^\s/]+)?|"
        r"projects/[^\s/]+(?:/locations/[^\s/]+)?/secrets/[^\s/]+(?:/versions/[^\s/]+)?",
        "gcp-sm://project/name",
    ),
    "azure-kv": (r"[\w.-]+/[\w-]+(?:/\w+)?", "azure-kv://vault/name"),
    "file": (r"/.*", "file:///run/secrets/name"),
}


class SecretError(Exception):
    """Why a secret cannot be used, for those who know its setting: no value, no host, no name."""


class ManagerUnavailable(SecretError):
    """The manager, or what tells it who asks, cannot be reached: another try may succeed."""


@dataclass(frozen=True, slots=True)
class Reference:
    """Where a secret is kept; `field` is one of a secret that is a JSON object, or empty."""

    scheme: str
    name: str
    field: str = ""

    def __str__(self) -> str:
        return f"{self.scheme}://{self.name}" + (f"#{self.field}" if self.field else "")


def parse(text: str) -> Reference | None:
    """The reference that a value is; None for any other value. Raises ValueError."""
    scheme, separator, rest = text.strip().partition("://")
    if not separator or scheme not in SCHEMES:
        return None
    name, marked, field = rest.partition("#")
    pattern, example = SCHEMES[scheme]
    if not re.fullmatch(pattern, name) or (marked and not field):
        raise ValueError(f"must look like {example} or {example}#field")
    return Reference(scheme, name, field)


def value_of(text: str, field: str) -> str:
    """The value in the text of a secret, without the newline at its end. Raises SecretError."""
    value = _field_of(text, field) if field else text
    # `echo … |` and editors add one.
    value = value.rstrip("\r\n")
    if not value.strip():
        raise SecretError("is empty")
    return value


def _field_of(text: str, field: str) -> str:
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise SecretError(f"is no JSON object, so it has no field {field!r}")
    if field not in fields:
        raise SecretError(f"has no field {field!r}")
    value = fields[field]
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise SecretError(f"has a field {field!r} that is no text")
    return str(value)
