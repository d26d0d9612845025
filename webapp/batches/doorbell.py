"""Tells the workers that a batch has work, through the broker. The database is the truth: a message
that is lost, late or doubled costs nothing, as workers also look by themselves."""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from typing import Any

import gevent
from gevent.lock import BoundedSemaphore

from webapp.batches.broker import ONE_RETRY, QUEUE, TASK, make_celery

log = logging.getLogger(__name__)

TIMEOUT = 1.0  # seconds that a caller waits for the broker at most
PAUSE = 10.0  # seconds for which a broker that has failed is skipped


class Doorbell:
    """Publishes that a batch has work. Without a broker it does nothing."""

    def __init__(self, broker: str, *, verify_certificate: bool = True) -> None:
        self._broker = broker
        self._verify_certificate = verify_certificate
        self._celery: Any = None
        self._connection: Any = None
        self._making = BoundedSemaphore()
        self._publishing = BoundedSemaphore()
        self._skip_until = 0.0
        self._failed = False

    def ring(self, batch_id: str) -> None:
        """Publish it. Never raises, and waits for the broker for TIMEOUT at most."""
        if not self._broker or self._is_skipped:
            return
        patience = gevent.Timeout(TIMEOUT)
        try:
            self._make_celery()
            with patience, self._publishing:
                if self._is_skipped:
                    return  # another caller has just found out
                self._publish(batch_id)
        except gevent.Timeout as timeout:
            if timeout is not patience:
                raise
            self._lose("it does not answer in time")
        except Exception as error:  # noqa: BLE001 each transport has errors of its own
            self._lose(f"{type(error).__name__}: {error}")
        else:
            self._recover()

    def close(self) -> None:
        """Close the connection; the next message opens another one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with gevent.Timeout(TIMEOUT, False), suppress(Exception):
                connection.close()

    @property
    def _is_skipped(self) -> bool:
        return time.monotonic() < self._skip_until

    def _make_celery(self) -> None:
        """Its import takes long, which is no waiting for the broker, and fails in a greenlet that
        begins it while another one is in it."""
        if self._celery is None:
            with self._making:
                self._celery = self._celery or make_celery(
                    self._broker, verify_certificate=self._verify_certificate
                )

    def _publish(self, batch_id: str) -> None:
        if self._connection is not None:
            try:
                self._send(batch_id)
                return
            except Exception:  # noqa: BLE001
                # It may have broken while it was idle: try a new one.
                self.close()
        self._connection = self._celery.connection_for_write(connect_timeout=TIMEOUT)
        self._connection.ensure_connection(**ONE_RETRY)
        self._send(batch_id)

    def _send(self, batch_id: str) -> None:
        self._celery.send_task(
            TASK, [batch_id], queue=QUEUE, connection=self._connection, retry=False
        )

    def _lose(self, reason: str) -> None:
        self._skip_until = time.monotonic() + PAUSE
        self.close()
        if not self._failed:
            log.warning(
                "The broker cannot be told of work (%s). Workers find it by themselves", reason
            )
        self._failed = True

    def _recover(self) -> None:
        if self._failed:
            log.warning("The broker takes messages again")
        self._failed = False
