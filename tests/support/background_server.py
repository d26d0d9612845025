"""An HTTP server of the tests that runs in a thread, from the start of a `with` to its end."""

from __future__ import annotations

import threading
from http.server import ThreadingHTTPServer
from types import TracebackType
from typing import Self

LOOK_INTERVAL = 0.02  # seconds between two looks whether it is to end


class BackgroundServer:
    """Set `_server` before it is entered."""

    _server: ThreadingHTTPServer

    def __enter__(self) -> Self:
        threading.Thread(
            target=self._server.serve_forever, args=(LOOK_INTERVAL,), daemon=True
        ).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
