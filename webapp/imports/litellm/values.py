"""Values of LiteLLM's file: what refers to the environment stays a reference, all else is text."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import Any

from webapp.imports.env_file import literal, reference

MAX_DIGITS = 30  # before the point, and zeros after it
ENVIRON = re.compile(r"os\.environ/([A-Za-z_]\w*)")


def template(value: Any) -> str:
    """The template of a value; "" where there is none."""
    text = "" if value is None else str(value).strip()
    found = ENVIRON.fullmatch(text)
    return reference(found[1]) if found else literal(text)


def variable(value: Any) -> str:
    """The name of the variable that a value refers to; "" for any other value."""
    found = ENVIRON.fullmatch(str(value).strip()) if value is not None else None
    return found[1] if found else ""


def number(value: Any) -> Fraction | None:
    """A number, also as text (YAML reads 1e-6 as one); None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = Decimal(str(value).strip())
    except InvalidOperation:
        return None
    return Fraction(found) if found.is_finite() and abs(found.adjusted()) < MAX_DIGITS else None


def mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
