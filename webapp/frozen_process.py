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
        if whole:
            body = list(answer)
            self._end(answer)
            return body
        return self._streamed(answer)

    def _streamed(self, answer: Iterable[bytes]) -> Iterator[bytes]:
        try:
            yield from answer
        finally:
            self._end(answer)

    def _end(self, answer: Iterable[bytes]) -> None:
        """What counts the request runs when its answer is closed."""
        close = getattr(answer, "close", None)
        if close is not None:
            close()
        self._finish()
