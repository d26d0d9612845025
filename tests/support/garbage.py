"""Weir's application, which also tells what garbage its requests leave: GET /garbage.

Its collector does not run by itself. What a look finds are the objects that only reference cycles
have kept since the look before.
"""

from __future__ import annotations

import gc
import json
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import count
from typing import Any

import gevent
from werkzeug.wsgi import ClosingIterator

from wsgi import app

__all__ = ["app"]

gc.disable()


def _watched(serve: Callable[..., Iterable[bytes]]) -> Callable[..., Iterable[bytes]]:
    running: set[int] = set()
    numbers = count()

    def watched(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["PATH_INFO"] != "/garbage":
            number = next(numbers)
            running.add(number)
            return ClosingIterator(serve(environ, start_response), lambda: running.discard(number))
        while running:
            gevent.sleep(0.01)
        start_response("200 OK", [("Content-Type", "application/json")])
        return [json.dumps(_garbage()).encode()]

    return watched


def _garbage() -> dict[str, int]:
    """The number of objects of each type."""
    gc.set_debug(gc.DEBUG_SAVEALL)
    gc.collect()
    gc.set_debug(0)
    found = Counter(f"{type(one).__module__}.{type(one).__qualname__}" for one in gc.garbage)
    gc.garbage.clear()
    gc.collect()
    return found


app.wsgi_app = _watched(app.wsgi_app)  # type: ignore[method-assign]
