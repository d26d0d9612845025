"""Runs blocking or heavy work in a native thread, beside gevent's loop, so no stream stalls."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TypeVar

import gevent.monkey
from gevent.threadpool import ThreadPool

Result = TypeVar("Result")

# As many as gevent's own pool has. scrypt takes 2 at most; what is fetched for tiktoken and what
# LangChain imports may each keep one for long, and leave enough.
SHARED_THREADS = 10
# A tenth of what the loop gets where both want a core. Not less: the loop waits for this thread
# whenever it has the interpreter's lock.
NICE = 10


class NativeThreads:
    """So many native threads of their own, for work that would hold up gevent's loop.

    gevent looks names up in its own pool: work that is stuck there would keep providers from being
    reached. Whoever gives up waiting (gevent.Timeout) does not end the work, which keeps its
    thread; what waits for a thread meanwhile, waits here only.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._pool: ThreadPool | None = None

    def run(self, work: Callable[[], Result]) -> Result:
        """The result of `work`, done in one of these threads where gevent runs the process.

        What it raises is raised here, and not printed by gevent as the end of a thread.
        """
        if not gevent.monkey.is_module_patched("threading"):
            return work()
        if self._pool is None:
            # Not before, as a pool belongs to the hub of the worker that makes it.
            self._pool = self._make_pool()
        outcome: list[Result] = []
        error = self._pool.apply(_try, (work, outcome))
        if error is not None:
            raise error
        return outcome[0]

    def _make_pool(self) -> ThreadPool:
        return ThreadPool(self._size)


class LowPriorityWorker(NativeThreads):
    """A native thread of its own for what computes for long: gevent's loop takes the core first."""

    def __init__(self) -> None:
        super().__init__(1)

    def _make_pool(self) -> ThreadPool:
        pool = super()._make_pool()
        # Only on Linux is that the thread's own; elsewhere it would be the whole process's.
        if sys.platform == "linux":
            pool.spawn(os.nice, NICE)
        return pool


_shared = NativeThreads(SHARED_THREADS)


def run_in_thread(work: Callable[[], Result]) -> Result:
    """As NativeThreads.run(), in the threads of all that needs none of its own."""
    return _shared.run(work)


def _try(work: Callable[[], Result], outcome: list[Result]) -> Exception | None:
    try:
        outcome.append(work())
    except Exception as error:  # noqa: BLE001 raised again by whoever waits
        return error
    return None
