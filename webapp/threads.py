"""Runs blocking or heavy work in a native thread, beside gevent's loop, so no stream stalls."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import gevent
import gevent.monkey
from gevent.threadpool import ThreadPool

Result = TypeVar("Result")

# A tenth of what the loop gets where both want a core. Not less: the loop waits for this thread
# whenever it has the interpreter's lock.
NICE = 10


def run_in_thread(work: Callable[[], Result]) -> Result:
    """The result of `work`, done in a native thread where gevent runs the process.

    What it raises is raised here, and not printed by gevent as the end of a thread.
    """
    if not gevent.monkey.is_module_patched("threading"):
        return work()
    return _result_in(gevent.get_hub().threadpool, work)


class LowPriorityWorker:
    """A native thread of its own for what computes for long: gevent's loop takes the core first."""

    def __init__(self) -> None:
        self._thread: ThreadPool | None = None

    def run(self, work: Callable[[], Result]) -> Result:
        """As `run_in_thread`; one at a time."""
        if not gevent.monkey.is_module_patched("threading"):
            return work()
        if self._thread is None:
            self._thread = ThreadPool(1)
            # Only on Linux is that the thread's own; elsewhere it would be the whole process's.
            if sys.platform == "linux":
                self._thread.spawn(os.nice, NICE)
        return _result_in(self._thread, work)


def _result_in(pool: Any, work: Callable[[], Result]) -> Result:
    outcome: list[Result] = []
    error = pool.apply(_try, (work, outcome))
    if error is not None:
        raise error
    return outcome[0]


def _try(work: Callable[[], Result], outcome: list[Result]) -> Exception | None:
    try:
        outcome.append(work())
    except Exception as error:  # noqa: BLE001 raised again by whoever waits
        return error
    return None
