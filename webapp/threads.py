"""Runs blocking or heavy work in native threads, so that it stalls no stream."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TypeVar

import gevent.monkey
from gevent.threadpool import ThreadPool

Result = TypeVar("Result")

# As many as in gevent's own pool. scrypt uses 2 at most; tiktoken's downloads and LangChain's
# imports may each occupy one for long, which leaves enough.
SHARED_THREADS = 10
# A tenth of the event loop's share of a busy core. Not less, as the event loop waits for this
# thread whenever it holds the interpreter's lock.
NICE = 10


class NativeThreads:
    """A separate pool of native threads, for work that would block the event loop.

    gevent resolves host names in its own pool, so work that is stuck there would block calls to
    providers. A gevent.Timeout ends the wait, but not the work, which keeps its thread; only work
    of the same pool is delayed by that.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._pool: ThreadPool | None = None

    def run(self, work: Callable[[], Result]) -> Result:
        """Run `work` in one of these threads, or directly if gevent does not run the process.

        Its errors are raised here, and not printed by gevent as errors of a thread.
        """
        if not gevent.monkey.is_module_patched("threading"):
            return work()
        if self._pool is None:
            # Not earlier, as a pool belongs to the hub of the worker that creates it.
            self._pool = self._make_pool()
        outcome: list[Result] = []
        error = self._pool.apply(_try, (work, outcome))
        if error is not None:
            raise error
        return outcome[0]

    def _make_pool(self) -> ThreadPool:
        return ThreadPool(self._size)


class LowPriorityWorker(NativeThreads):
    """A native thread of low priority for long computations: the event loop comes first."""

    def __init__(self) -> None:
        super().__init__(1)

    def _make_pool(self) -> ThreadPool:
        pool = super()._make_pool()
        # Only on Linux does this set the priority of a single thread, not of the whole process.
        if sys.platform == "linux":
            pool.spawn(os.nice, NICE)
        return pool


_shared = NativeThreads(SHARED_THREADS)


def run_in_thread(work: Callable[[], Result]) -> Result:
    """As NativeThreads.run(), in the pool that is shared by all other work."""
    return _shared.run(work)


def _try(work: Callable[[], Result], outcome: list[Result]) -> Exception | None:
    try:
        outcome.append(work())
    except Exception as error:  # noqa: BLE001 raised again by run()
        return error
    return None
