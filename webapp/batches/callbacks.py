"""Callbacks: tells the receiver that a job named that it has ended (Standard Webhooks)."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from http.client import HTTPException
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy import select

from webapp import webhooks
from webapp.batches.batch import Batch, batch_of
from webapp.batches.job import status_code_of, status_of
from webapp.batches.lines import LineStore
from webapp.batches.public_post import post
from webapp.batches.tables import batches
from webapp.storage.database import Database
from webapp.storage.deliveries import Deliveries

log = logging.getLogger(__name__)


class Callbacks:
    """Sends the callbacks that are due, signed with `secret`, to `hosts` only."""

    def __init__(
        self, database: Database, lines: LineStore, hosts: Collection[str], secret: bytes
    ) -> None:
        self._lines = lines
        self._hosts = hosts
        self._secret = secret
        columns = batches.c
        self._deliveries = Deliveries(
            database,
            select(batches),
            columns.id,
            columns.callback_attempts,
            columns.callback_due_at,
            self._send,
            "The callback of job",
        )

    def tick(self) -> None:
        """Start to send what is due, in the background. May raise StoreUnavailable."""
        if self._hosts:
            self._deliveries.tick()

    def _send(self, row: Mapping[Any, Any]) -> int:
        """Send a callback. The status of the response, or 0 without one."""
        job = batch_of(row)
        url = job.callback_url or ""
        if not is_allowed(urlsplit(url).hostname or "", self._hosts):
            log.warning("The callback of job %s waits: CALLBACK_HOSTS lacks its host", job.id)
            return 0
        body = json.dumps(self._event(job)).encode()
        headers = webhooks.headers_of(self._secret, job.id, body)
        try:
            return post(url, body, headers, webhooks.TIMEOUT)
        except (OSError, HTTPException) as error:
            log.warning("The callback of job %s was not delivered: %s", job.id, error)
            return 0

    def _event(self, job: Batch) -> dict[str, Any]:
        """What the receiver is told; the answer itself is at `/jobs/{id}`, for who has the key."""
        line = self._lines.of_job(job.id)
        status = status_of(job, line)
        ended_at = datetime.fromtimestamp(job.ended_at or job.created_at, UTC)
        return {
            "type": f"job.{status}",
            "timestamp": ended_at.isoformat(),
            "data": {"id": job.id, "status": str(status), "status_code": status_code_of(line)},
        }


def is_allowed(host: str, allowed: Collection[str]) -> bool:
    """Whether callbacks may go to this host (lower case); `*.` stands for subdomains."""
    return any(
        host.endswith(name[1:]) if name.startswith("*.") else host == name for name in allowed
    )
