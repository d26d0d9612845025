"""Holds lines back while other processes want the core that this one runs on.

A low priority alone is not enough: a process of niceness 10 still gets a tenth of a core that is
busy, and interrupts the requests there. Linux counts for each thread how long it ran, and how long
it was ready to and had to wait (/proc/thread-self/schedstat, proc_pid_schedstat in the kernel's
"Scheduler Statistics"). Where there is no such count, nothing is held back.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

# On a core that others want, so many lines begin at once, and then none for so many seconds. One by
# one each would need transactions of its own.
GROUP, GAP = 8, 1.0
INTERVAL = 0.05  # seconds between two looks at who wants it, at least
CALM = 2.0  # seconds in which nobody wanted it, until lines may begin as they like
# A thread that had to wait for so much of the time in which it was ready is not alone.
WAITED = 0.5
LEAST_TIME = 0.002  # seconds ran and waited, from which on that share says something
SCHEDULED = Path("/proc/thread-self/schedstat")


@dataclass(frozen=True, slots=True)
class CpuTime:
    """Of a thread, since it began, in seconds."""

    ran: float
    waited: float


def cpu_time_of_this_thread() -> CpuTime | None:
    """None where the system does not tell."""
    try:
        ran, waited, _ = SCHEDULED.read_bytes().split()
    except (OSError, ValueError):
        return None
    return CpuTime(int(ran) / 1e9, int(waited) / 1e9)


class CpuShare:
    """Lets few lines begin while another thread wants the core of this one."""

    def __init__(
        self,
        read: Callable[[], CpuTime | None] = cpu_time_of_this_thread,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read = read
        self._now = now
        self._looked_at = self._wanted_until = self._next_at = now()
        self._then = read()
        self._begun = 0

    def pause(self) -> float:
        """The seconds until the next line may begin."""
        now = self._now()
        if now - self._looked_at >= INTERVAL:
            self._look(now)
        if now >= self._wanted_until:
            return 0.0
        if now >= self._next_at:
            self._next_at, self._begun = now + GAP, 0
        return 0.0 if self._begun < GROUP else self._next_at - now

    def began(self) -> None:
        """A line has begun."""
        self._begun += 1

    def _look(self, now: float) -> None:
        then, current = self._then, self._read()
        if then is None or current is None:
            return
        waited = current.waited - then.waited
        ready = waited + current.ran - then.ran
        if ready >= LEAST_TIME:
            self._looked_at, self._then = now, current
            if waited > WAITED * ready:
                self._wanted_until = now + CALM
