"""Runs blocking or heavy work in a native thread, beside gevent's loop, so no stream stalls."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import gevent
import gevent.monkey

Result = TypeVar("Result")


def beside(work: Callable[[], Result]) -> Result:
    """The result of `work`, done in a native thread where gevent runs the process."""
    if not gevent.monkey.is_module_patched("threading"):
        return work()
    result: Result = gevent.get_hub().threadpool.apply(work)
    return result
