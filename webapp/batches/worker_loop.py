"""What `flask worker` does: it works when a message comes, and when it finds something itself."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

import gevent
from gevent.event import Event

from webapp.batches.message_consumer import MessageConsumer
from webapp.errors import StoreUnavailable

log = logging.getLogger(__name__)

RUN_FOR = 45.0  # seconds
# Seconds between two looks into the database: beside messages, and where none can come.
LOOK_INTERVAL, LOOK_INTERVAL_ALONE = 10.0, 1.0


class Executor(Protocol):
    """What works on batches."""

    def wake(self) -> None: ...

    def run_for(self, seconds: float) -> bool: ...

    def stop(self, grace: float) -> None: ...


class WorkerLoop:
    """Lets the executor work whenever there may be something to do.

    A message only says so, and is gone at once: messages of work that goes on for hours would
    gather in the broker. What is announced to a worker that has no room, others find by themselves.
    `prepare` says whether the work can begin; it may raise StoreUnavailable.
    """

    def __init__(
        self,
        executor: Executor,
        prepare: Callable[[], bool],
        broker: str,
        *,
        verify_certificate: bool = True,
    ) -> None:
        self._executor = executor
        self._prepare = prepare
        self._look_now = Event()
        self._stopping = Event()
        self._failed = False
        self._consumer: MessageConsumer | None = None
        if broker:
            self._consumer = MessageConsumer(
                broker, self._receive, self._look_now.set, verify_certificate=verify_certificate
            )

    def run(self) -> None:
        """Work until stop() is called."""
        while not self._is_prepared():
            if self._stopping.wait(LOOK_INTERVAL_ALONE):
                return
        if self._consumer:
            self._consumer.start()
        gevent.spawn(self._work_forever)
        self._stopping.wait()

    def stop(self) -> None:
        """Let run() return; a signal handler may call it."""
        self._stopping.set()

    def finish(self, timeout: float) -> None:
        """Take nothing more, and wait for what runs."""
        if self._consumer:
            self._consumer.stop()
        stopping = gevent.spawn(self._executor.stop, timeout)
        stopping.join(timeout)
        if not stopping.ready():
            log.warning("Work on batches did not end within SHUTDOWN_GRACE. Others do it again")

    def _is_prepared(self) -> bool:
        try:
            return self._prepare()
        except StoreUnavailable:
            return False

    def _receive(self) -> None:
        self._executor.wake()  # it may be at work on other batches
        self._look_now.set()

    def _work_forever(self) -> None:
        while not self._stopping.is_set():
            self._look_now.clear()
            if not self._work():
                self._look_now.wait(self._seconds_until_look)

    def _work(self) -> bool:
        """Whether something is left to do."""
        self._failed = True
        try:
            something_is_left = self._executor.run_for(RUN_FOR)
        except StoreUnavailable as error:
            if not error.logged:
                log.warning("The database is unavailable; batches go on when it is back")
        except Exception:
            log.exception("Work on batches failed")
        else:
            self._failed = False
            return something_is_left
        return False

    @property
    def _seconds_until_look(self) -> float:
        messages_come = self._consumer is not None and self._consumer.is_connected
        return LOOK_INTERVAL if messages_come and not self._failed else LOOK_INTERVAL_ALONE
