"""Standard Webhooks (standardwebhooks.com, version 1.0): signatures, and when to try again."""

from __future__ import annotations

import base64
import hashlib
import hmac
import random
import time

TIMEOUT = 10.0  # seconds
GONE = 410
# Seconds before each further attempt, as the standard recommends: three days in all.
RETRY_DELAYS = (5, 30, 120, 600, 3600, 10_800, 21_600, 43_200, 86_400, 86_400)


def headers_of(secret: bytes, event_id: str, body: bytes) -> dict[str, str]:
    """The headers of an event that is sent now."""
    timestamp = str(int(time.time()))
    signed = f"{event_id}.{timestamp}.".encode() + body
    signature = base64.b64encode(hmac.digest(secret, signed, hashlib.sha256)).decode()
    return {
        "Content-Type": "application/json",
        "webhook-id": event_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": f"v1,{signature}",
    }


def is_delivered(status: int) -> bool:
    return 200 <= status < 300


def pause_before_next(status: int, attempts: int) -> float | None:
    """Seconds until the next attempt after so many that failed; None to give up."""
    if status == GONE or attempts > len(RETRY_DELAYS):
        return None
    return RETRY_DELAYS[attempts - 1] * random.uniform(0.9, 1.1)  # noqa: S311 no secret
