"""Lets a process that works on batches come second where requests want the same core."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

NICE = 10
# Linux's CPU scheduler groups processes by session, and compares nice values within a group only
# (sched(7)): a process that leads a session has to lower its group too. One that does not lead may
# be in the group of a serving process, and its own nice value counts there.
GROUP = Path("/proc/self/autogroup")


def lower_priority() -> None:
    """Lower it for this process and all that it starts."""
    with suppress(OSError):
        os.nice(NICE)
    with suppress(OSError):
        if os.getsid(0) == os.getpid() and GROUP.exists():
            GROUP.write_text(str(NICE))
