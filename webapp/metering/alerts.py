"""Alerts when a budget is 50, 80 or 100 % spent, by webhook (standardwebhooks.com, version 1.0).

An alert is a row, written in the transaction that records the cost, once for each budget, period
and threshold. The worker that claims the row sends it. A claim expires if the worker dies.
"""

from __future__ import annotations

import json
import time
import uuid
from datetime import UTC, date, datetime
from typing import Any
from urllib.parse import urlsplit

import gevent
from geventhttpclient import HTTPClient
from geventhttpclient.response import HTTPParseError
from sqlalchemy import BigInteger, Column, Connection, Date, Float, Integer, String, Table, select

from webapp import money, webhooks
from webapp.accounts.keys import api_keys
from webapp.metering.budgets import end_of
from webapp.storage.database import Database, metadata, upsert
from webapp.storage.deliveries import Deliveries
from webapp.webhooks import TIMEOUT

alerts = Table(
    "alerts",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("key_id", Integer, nullable=False),
    Column("period", String(5), nullable=False),
    Column("start", Date, nullable=False),
    Column("percent", Integer, nullable=False),
    Column("limit_nano", BigInteger, nullable=False),
    Column("spent_nano", BigInteger, nullable=False),
    # Unix seconds. `next_attempt_at` is null once the alert is delivered or given up.
    Column("created_at", Float, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("next_attempt_at", Float),
    Column("delivered_at", Float),
)

PERCENTS = (50, 80, 100)
# If a call is refused when this percentage is spent, the alert for 100 % is sent.
NEARLY_SPENT = 80


class Alerts:
    """Records alerts and sends them to `url`, signed with `secret`. Does nothing without a URL."""

    def __init__(self, database: Database, url: str, secret: bytes) -> None:
        self._url = url
        self._secret = secret
        self._deliveries = Deliveries(
            database,
            select(alerts, api_keys.c.name, api_keys.c.mask).join(
                api_keys, api_keys.c.id == alerts.c.key_id
            ),
            alerts.c.id,
            alerts.c.attempts,
            alerts.c.next_attempt_at,
            lambda row: self.send(row["id"], _event(row)),
            "Alert",
            lambda: {"delivered_at": time.time()},
        )

    def note(
        self,
        connection: Connection,
        key_id: int,
        period: str,
        start: date,
        before: int,
        after: int,
        limit: int,
        *,
        refused: bool = False,
    ) -> None:
        """Record, in this transaction, an alert for each threshold that spending has passed.

        `before`, `after` and `limit` are nano-USD. `refused` means that the budget refused a call.
        """
        if not self._url or limit <= 0:
            return
        passed = [p for p in PERCENTS if before * 100 < p * limit <= after * 100]
        if refused and after * 100 >= NEARLY_SPENT * limit:
            passed = [100]
        for percent in passed:
            row = {
                "id": str(uuid.uuid4()),
                "key_id": key_id,
                "period": period,
                "start": start,
                "percent": percent,
                "limit_nano": limit,
                "spent_nano": after,
                "created_at": time.time(),
                "attempts": 0,
                "next_attempt_at": time.time(),
            }
            insert = upsert(connection.dialect.name, alerts).values(row)
            connection.execute(insert.on_conflict_do_nothing())

    def tick(self) -> None:
        """Start to send the alerts that are due, in the background. May raise StoreUnavailable."""
        if self._url:
            self._deliveries.tick()

    def send(self, event_id: str, event: dict[str, Any]) -> int:
        """Send an event now. The status of the response, or 0 without a response."""
        body = json.dumps(event).encode()
        headers = webhooks.headers_of(self._secret, event_id, body)
        client = HTTPClient.from_url(self._url, connection_timeout=TIMEOUT, network_timeout=TIMEOUT)
        parts = urlsplit(self._url)
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        try:
            with gevent.Timeout(TIMEOUT, TimeoutError):
                return int(client.request("POST", path, body, headers).status_code)
        except (OSError, HTTPParseError, RuntimeError):
            return 0
        finally:
            client.close()


def _event(row: Any) -> dict[str, Any]:
    return {
        "type": "budget.threshold_reached",
        "timestamp": datetime.fromtimestamp(row["created_at"], UTC).isoformat(),
        "data": {
            "key_id": row["key_id"],
            "key_name": row["name"],
            "api_key": row["mask"],
            "period": row["period"],
            "percent": row["percent"],
            "limit_usd": money.to_usd(row["limit_nano"]),
            "spent_usd": money.to_usd(row["spent_nano"]),
            "resets_at": f"{end_of(row['period'], row['start'])}T00:00:00+00:00",
        },
    }
