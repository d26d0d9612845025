"""Lets a server's wall clock jump: the number in the file CLOCK_OFFSET_FILE is added to it.

Python imports this by itself where its folder is in PYTHONPATH.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

_right = time.time
_offset = Path(os.environ["CLOCK_OFFSET_FILE"])


def _jumping() -> float:
    try:
        return _right() + float(_offset.read_text())
    except (OSError, ValueError):
        return _right()


time.time = _jumping
