"""Logs: one JSON object a line on stdout, Weir's and Gunicorn's alike, without any secret."""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from gunicorn.glogging import Logger as GunicornLogger
from pythonjsonlogger.json import JsonFormatter

from webapp.observability.masking import mask

if TYPE_CHECKING:
    from webapp.observability.record import RequestRecord

request_log = logging.getLogger("webapp.request")


GENERATED_KEY = re.compile(r"weir_[A-Za-z0-9]{12}_[A-Za-z0-9_-]{43}")


class WeirFormatter(JsonFormatter):
    """JSON with `timestamp` (RFC 3339, UTC) and `level` first; known secrets become masks."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        super().__init__("%(message)s")
        self._secrets = sorted(set(secrets), key=len, reverse=True)

    def add_fields(
        self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]
    ) -> None:
        log_data.update(_head(record))
        super().add_fields(log_data, record, message_dict)
        log_data["logger"] = record.name

    def format(self, record: logging.LogRecord) -> str:
        # The one line that every request writes has its facts ready.
        if isinstance(record.msg, dict):
            line = json.dumps(_head(record) | record.msg)
        else:
            line = super().format(record)
        for secret in self._secrets:
            if secret in line:
                line = line.replace(secret, mask(secret))
        # A key that somebody put where none belongs, such as a request id.
        return GENERATED_KEY.sub(lambda key: mask(key[0]), line) if "weir_" in line else line


class WeirGunicornLogger(GunicornLogger):  # type: ignore[misc]
    """Gunicorn's own lines in the same form; its access log is off, Weir writes its own."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(WeirFormatter())
        self.error_log.handlers = [handler]
        self.error_log.propagate = False
        self.access_log.handlers = []

    def access(self, resp: Any, req: Any, environ: Any, request_time: Any) -> None:
        """Nothing: a platform that turns the access log on would get each request twice."""


def configure(level: str, secrets: Iterable[str]) -> None:
    """Send Weir's own lines at `level` and others' warnings to stdout."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(WeirFormatter(secrets))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("webapp").setLevel(level.upper())
    logging.captureWarnings(True)


def log_request(record: RequestRecord, status: int) -> None:
    """Write the line of one request."""
    level = logging.ERROR if status >= 500 else logging.INFO
    if not request_log.isEnabledFor(level):
        return
    facts = {
        "request_id": record.request_id,
        "api_key": record.api_key,
        "tier": record.tier,
        "endpoint": record.endpoint,
        "method": record.method,
        "status_code": status,
        "response_time_ms": round(record.milliseconds, 2),
        "cache_hit": record.cache in {"HIT", "STALE"} if record.cache else None,
        "model": record.model,
        "provider": record.provider,
        "tokens": record.tokens,
        "cost_usd": record.cost_usd,
        "error": record.error,
        "trace_id": record.trace_id,
    }
    if record.prompt is not None:
        facts |= {"prompt": record.prompt, "answer": record.answer}
    # Handed over as a finished record: nobody needs the source line, and finding it is not free.
    line = logging.LogRecord(request_log.name, level, "", 0, facts, None, None)
    request_log.handle(line)


def _head(record: logging.LogRecord) -> dict[str, Any]:
    """What every line begins with: the time (RFC 3339) and the level."""
    moment = datetime.fromtimestamp(record.created, UTC)
    return {
        "timestamp": moment.isoformat(timespec="milliseconds"),
        "level": record.levelname.lower(),
    }
