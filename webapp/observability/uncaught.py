"""Sends to the log what nobody caught, wherever that was: Python and gevent print it on stderr."""

from __future__ import annotations

import logging
import sys
import threading
from types import TracebackType
from typing import TYPE_CHECKING, Any

from webapp.library_internals import on_uncaught_in_greenlet

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

log = logging.getLogger(__name__)


def log_the_uncaught() -> None:
    """From now on, in this process and those it forks."""
    sys.excepthook = _in_the_main_thread
    sys.unraisablehook = _where_none_can_be_raised
    threading.excepthook = _in_a_thread
    on_uncaught_in_greenlet(_in_a_greenlet)


def _log(
    message: str,
    kind: type[BaseException],
    error: BaseException | None,
    traceback: TracebackType | None,
) -> None:
    log.error(message, exc_info=(kind, error or kind(), traceback))


def _in_the_main_thread(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    _log("The process failed", kind, error, traceback)


def _where_none_can_be_raised(args: UnraisableHookArgs) -> None:
    # No repr of the object: it may show anything.
    message = f"{args.err_msg or 'Exception ignored in'} {type(args.object).__qualname__}"
    _log(message, args.exc_type, args.exc_value, args.exc_traceback)


def _in_a_thread(args: threading.ExceptHookArgs) -> None:
    if not issubclass(args.exc_type, SystemExit):
        _log("A thread failed", args.exc_type, args.exc_value, args.exc_traceback)


def _in_a_greenlet(hub: Any, context: Any, kind: Any, error: Any, traceback: Any) -> None:
    # No repr of the context either: it shows the arguments. Without an error, the current one.
    if error is None:
        kind, error, traceback = sys.exc_info()
    if kind is not None:
        _log("A greenlet failed", kind, error, traceback)
