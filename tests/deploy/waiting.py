"""Waiting for what a script writes down."""

from __future__ import annotations

import time
from pathlib import Path


def await_text(file: Path, text: str, seconds: float = 20) -> None:
    until = time.monotonic() + seconds
    while not file.exists() or text not in file.read_text():
        assert time.monotonic() < until, f"no {text!r} in {file.name}"
        time.sleep(0.02)
