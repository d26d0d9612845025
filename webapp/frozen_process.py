"""WSGI middleware for platforms that freeze the process once an answer has ended (AWS Lambda)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment


class FinishBeforeTheEnd:
    """Calls `finish` before the last byte of each answer. After it, nothing is certain to run.

    A client knows the end of a whole answer by its length, so none of it is sent before; that of a
    stream comes when its iterator ends.
    """

    def __init__(self, app: WSGIApplication, finish: Callable[[], object]) -> None:
        self._app = app
        self._finish = finish

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        whole = False

        def start(status: str, headers: list[tuple[str, str]], *error: Any) -> Any:
            nonlocal whole
            whole = any(name.lower() == "content-length" for name, _ in headers)
            return start_response(status, headers, *error)

        answer = self._app(environ, start)
        ending = _Ending(answer, self._finish)
        if not whole:
            return ending
        try:
            return list(answer)
        finally:
            ending.close()


class _Ending:
    """A stream's parts, and what is done before its end."""

    def __init__(self, answer: Iterable[bytes], finish: Callable[[], object]) -> None:
        self._answer = answer
        self._finish = finish
        self._has_ended = False

    def __iter__(self) -> Iterator[bytes]:
        yield from self._answer
        self.close()

    def close(self) -> None:
        """What counts the request runs when its answer is closed."""
        if self._has_ended:
            return
        self._has_ended = True
        try:
            close = getattr(self._answer, "close", None)
            if close is not None:
                close()
        finally:
            self._finish()
