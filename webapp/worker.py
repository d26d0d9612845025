"""The Gunicorn worker: gevent's, that drains without waiting for idle connections."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gevent
from gunicorn.workers.ggevent import GeventWorker

if TYPE_CHECKING:
    from webapp.observability.lifecycle import Lifecycle


class IdleTimeout(gevent.Timeout):  # type: ignore[misc]
    """The keep-alive timeout of one idle connection, which a drain can bring forward."""

    def __init__(self, idle: set[IdleTimeout], seconds: float) -> None:
        super().__init__(seconds, False)
        self._idle = idle
        self._greenlet = gevent.getcurrent()

    def __enter__(self) -> IdleTimeout:
        self._idle.add(self)
        super().__enter__()
        return self

    def __exit__(self, *raised: Any) -> Any:
        self._idle.discard(self)
        return super().__exit__(*raised)

    def expire(self) -> None:
        gevent.kill(self._greenlet, self, block=False)


class WeirWorker(GeventWorker):  # type: ignore[misc]
    """Tells the application when it drains, and lets idle keep-alive connections go at once."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._idle: set[IdleTimeout] = set()

    def timeout_ctx(self) -> IdleTimeout:
        return IdleTimeout(self._idle, self.cfg.keepalive)

    def handle_exit(self, sig: int, frame: Any) -> None:
        super().handle_exit(sig, frame)
        self._lifecycle.drain()
        # A signal handler must not switch greenlets itself.
        gevent.spawn_later(1.0, self._let_idle_connections_go)

    def _let_idle_connections_go(self) -> None:
        while True:
            for timeout in list(self._idle):
                timeout.expire()
            gevent.sleep(0.5)

    @property
    def _lifecycle(self) -> Lifecycle:
        lifecycle: Lifecycle = self.wsgi.extensions["weir"].lifecycle
        return lifecycle
