"""Weir's application for Gunicorn, with endpoints that raise uncaught errors."""

from __future__ import annotations

import logging
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import gevent
from gevent.monkey import get_original

from tests.support.servers import Weir
from webapp.api.answers import stream
from webapp.api.dialects.native import NativeEvents
from webapp.llm.messages import Chunk

# The message of every fault. A test puts a secret into it.
SAYS = os.environ.get("FAULT_SAYS", "")


class FaultyWeir(Weir):
    """Fails to start if FAULTY_START is set."""

    def _command(self) -> list[str]:
        return [*super()._command()[:-1], "tests.support.faulty:app"]


def fail() -> NoReturn:
    raise RuntimeError(SAYS)


class FailsInTheEnd:
    def __del__(self) -> None:
        fail()


class FailingStream:
    """A stream that fails after its first chunk."""

    def __init__(self) -> None:
        self._pieces = iter([Chunk("{}", "a piece")])

    def next(self, within: float) -> Chunk:
        return next(self._pieces, None) or fail()

    def close(self) -> None:
        pass


def begin_and_fail() -> Iterator[bytes]:
    yield b"begun"
    fail()


def fail_in_a_thread() -> None:
    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()


def end_without_a_fault() -> None:
    gevent.spawn(gevent.sleep, 60).kill()
    thread = threading.Thread(target=exit)
    thread.start()
    thread.join()


def fail_in_a_tick(lifecycle: Any) -> None:
    def tick() -> None:
        lifecycle._ticks.remove(tick)
        fail()

    lifecycle._ticks.append(tick)


def endpoints(app: Any) -> dict[str, Callable[[], object]]:
    """The faults by name. Only those of streams return a response."""
    return {
        "view": fail,
        "stream": lambda: stream(FailingStream(), NativeEvents(lambda *_: {})),
        "iterator": begin_and_fail,
        "greenlet": lambda: gevent.spawn(fail).join(),
        "thread": fail_in_a_thread,
        "pool": lambda: gevent.get_hub().threadpool.spawn(fail).wait(),
        "native-thread": lambda: get_original("_thread", "start_new_thread")(fail, ()) and None,
        "finalizer": lambda: FailsInTheEnd() and None,
        "tick": lambda: fail_in_a_tick(app.extensions["weir"].lifecycle),
        "warning": lambda: warnings.warn(SAYS, stacklevel=1),
        "line": lambda: logging.getLogger("webapp.faulty").warning("%d", SAYS),
        "none": end_without_a_fault,
    }


def make_app() -> Any:
    from wsgi import app

    for name, endpoint in endpoints(app).items():
        app.add_url_rule(f"/fail/{name}", name, lambda endpoint=endpoint: endpoint() or "done")
    if "FAULTY_START" in os.environ:
        fail()
    return app


if "FAULT_SAYS" in os.environ:
    app = make_app()
