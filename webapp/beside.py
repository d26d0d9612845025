"""Runs blocking or heavy work in a native thread, beside gevent's loop, so no stream stalls."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import gevent
import gevent.monkey

Result = TypeVar("Result")


def beside(work: Callable[[], Result]) -> Result:
    """The result of `work`, done in a native thread where gevent runs the process.

    What it raises is raised here, and not printed by gevent as the end of a thread.
    """
    if not gevent.monkey.is_module_patched("threading"):
        return work()
    outcome: list[Result] = []
    error = gevent.get_hub().threadpool.apply(_try, (work, outcome))
    if error is not None:
        raise error
    return outcome[0]


def _try(work: Callable[[], Result], outcome: list[Result]) -> Exception | None:
    try:
        outcome.append(work())
    except Exception as error:  # noqa: BLE001 raised again by whoever waits
        return error
    return None
