"""Runs functions of the tests in a process patched by gevent, like Weir's workers.

Pytest's own is not patched: there a blocking call stops all greenlets, and no timeout ends it.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

from tests.support.servers import REPOSITORY

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

PATCH = "from gevent import monkey; monkey.patch_all(); "
SERVE = "from tests.support.gevent_process import serve; serve()"


class GeventProcess:
    """Runs one function after the other. State in modules is preserved for the next one."""

    begin = PATCH + SERVE

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-c", self.begin],
            cwd=REPOSITORY,
            env={"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.communicate()

    def run(
        self,
        function: Callable[Arguments, Result],
        *args: Arguments.args,
        **kwargs: Arguments.kwargs,
    ) -> Result:
        """Return or raise the result of the function. Arguments and result must be picklable."""
        assert self._process.stdin
        assert self._process.stdout
        pickle.dump((function, args, kwargs), self._process.stdin)
        self._process.stdin.flush()
        result, error = pickle.load(self._process.stdout)
        if error is not None:
            raise error
        return result  # type: ignore[no-any-return]


class PlainProcess(GeventProcess):
    """The same, not patched: like that of a flask command. Connections last as long as it does."""

    begin = SERVE


def serve() -> None:
    """Run the functions that come on stdin, until it ends."""
    from gevent.fileobject import FileObjectThread

    # Greenlets keep running between calls, and printed text must not mix with results.
    tasks = FileObjectThread(os.dup(0), "rb")
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    while True:
        try:
            function, args, kwargs = pickle.load(tasks)
        except EOFError:
            os._exit(0)  # without waiting for greenlets and threads
        answer: tuple[Any, Exception | None] = (None, None)
        try:
            answer = (function(*args, **kwargs), None)
        except Exception as error:
            error.add_note(traceback.format_exc())
            answer = (None, error)
        pickle.dump(answer, answers)
        answers.flush()
