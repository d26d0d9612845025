"""Logs uncaught exceptions of threads and greenlets, which Python and gevent print on stderr."""

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
    """Log uncaught exceptions from now on, in this process and those it forks."""
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
    # No repr of the object: it may contain secrets.
    message = f"{args.err_msg or 'Exception ignored in'} {type(args.object).__qualname__}"
    _log(message, args.exc_type, args.exc_value, args.exc_traceback)


def _in_a_thread(args: threading.ExceptHookArgs) -> None:
    if not issubclass(args.exc_type, SystemExit):
        _log("A thread failed", args.exc_type, args.exc_value, args.exc_traceback)


def _in_a_greenlet(hub: Any, context: Any, kind: Any, error: Any, traceback: Any) -> None:
    # No repr of the context: it shows the arguments. Without an error, log the current one.
    if error is None:
        kind, error, traceback = sys.exc_info()
    if kind is not None:
        _log("A greenlet failed", kind, error, traceback)
