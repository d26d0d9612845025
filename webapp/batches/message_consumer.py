"""Takes the messages of the broker with Celery's worker, inside a process that gevent runs.

Celery loses its connection once, and then ends: here it is started again, so that a broker that is
away is known, is told of in one line, and holds nothing up.
"""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import gevent
from gevent.event import Event

from webapp.batches.broker import ONE_RETRY, QUEUE, TASK, make_celery

log = logging.getLogger(__name__)

CONNECT_TIMEOUT = 5.0
RETRY_INTERVAL = 1.0  # seconds
LOG_INTERVAL = 60.0  # seconds
# What Celery and Kombu log of a broker that is away, and of messages that are not Weir's, with all
# that they hold; the watch here says it in a line.
QUIET = ("celery", "kombu", "amqp")


class MessageConsumer:
    """Calls `receive` for each message, and `lost` when no messages come any more.

    Neither may raise or take long.
    """

    def __init__(
        self,
        broker: str,
        receive: Callable[[], object],
        lost: Callable[[], object],
        *,
        verify_certificate: bool = True,
    ) -> None:
        self._celery = make_celery(broker, verify_certificate=verify_certificate)
        self._receive = receive
        self._lost = lost
        self._stopping = False
        self._loss_is_told = False
        self._told_at = -LOG_INTERVAL
        self.is_connected = False
        _watch_connection(self._celery, self._set_connected)
        self._celery.task(self._run_task, name=TASK)
        for name in QUIET:
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)

    def start(self) -> None:
        """Begin to take messages, now and whenever the broker is back."""
        gevent.spawn(self._consume_forever)

    def stop(self) -> None:
        """Take no more messages. The connection ends with the process: Celery would wait for the
        broker to close it."""
        self._stopping = True

    def _run_task(self, *_: object, **__: object) -> None:
        """The task. Its arguments do not count: whoever may write to the broker chooses them."""
        if self._stopping:
            # Not acknowledged, so that another worker gets it.
            Event().wait()
        self._receive()

    def _consume_forever(self) -> None:
        while not self._stopping:
            try:
                self._try_out()
                self._consume()
            except Exception as error:  # noqa: BLE001 each transport has errors of its own
                self._tell(f"{type(error).__name__}: {error}")
            self.is_connected = False
            self._lost()
            gc.collect()  # Celery leaves a quarter of a megabyte in cycles
            if not self._stopping:
                gevent.sleep(RETRY_INTERVAL)

    def _try_out(self) -> None:
        """Raises what prevents a connection. Celery itself would only log it."""
        connection = self._celery.connection_for_read(connect_timeout=CONNECT_TIMEOUT)
        patience = gevent.Timeout(CONNECT_TIMEOUT)
        try:
            with patience:
                connection.ensure_connection(**ONE_RETRY)
        except gevent.Timeout as timeout:
            if timeout is not patience:
                raise
            raise TimeoutError("no answer in time") from None
        finally:
            with suppress(Exception), gevent.Timeout(CONNECT_TIMEOUT, False):
                connection.close()

    def _consume(self) -> None:
        # This greenlet runs the task. With Celery's pool for gevent, and one message at a time, the
        # next one is looked for up to 2 s later.
        controller = self._celery.WorkController(
            pool_cls="solo",
            concurrency=1,
            queues=[QUEUE],
            without_heartbeat=True,
            without_mingle=True,
            without_gossip=True,
        )
        controller.start()
        if not self._stopping:
            self._tell("the connection is lost, or a message has no shape")

    def _set_connected(self, connected: bool) -> None:
        if connected and self._loss_is_told:
            log.warning("The broker is available again")
            self._loss_is_told = False
        self.is_connected = connected

    def _tell(self, problem: str) -> None:
        """Log it, once for each loss and once a minute at most."""
        now = time.monotonic()
        if not self._loss_is_told and now - self._told_at >= LOG_INTERVAL:
            log.warning(
                "The broker is unavailable (%s). Looking into the database every second", problem
            )
            self._loss_is_told, self._told_at = True, now


def _watch_connection(celery: Any, tell: Callable[[bool], None]) -> None:
    """Call `tell` when messages can be received, and when they cannot any more."""
    from celery import bootsteps

    class Watch(bootsteps.StartStopStep):  # type: ignore[misc]
        requires = ("celery.worker.consumer.tasks:Tasks",)

        def start(self, consumer: Any) -> None:
            tell(True)

        def stop(self, consumer: Any) -> None:
            tell(False)

    celery.steps["consumer"].add(Watch)
