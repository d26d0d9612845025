"""What a check has found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "warning", "problem"]


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of a check, and advice if it is not "ok"."""

    check: str
    status: Status
    found: str
    advice: str = ""
