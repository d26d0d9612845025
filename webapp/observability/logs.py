"""Logs: one JSON object a line on stdout, Weir's and Gunicorn's alike, without any secret."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import time
import zlib
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from gunicorn.glogging import Logger as GunicornLogger
from pythonjsonlogger.json import JsonFormatter

from webapp import json_codec
from webapp.observability.masking import mask
from webapp.observability.redaction import Patterns, each_text, redact

if TYPE_CHECKING:
    from webapp.observability.request_context import RequestContext

STDOUT = 1
GENERATED_KEY = r"weir_[A-Za-z0-9]{12}_[A-Za-z0-9_-]{43}"

request_log = logging.getLogger("webapp.request")


class WeirFormatter(JsonFormatter):
    """JSON with `timestamp` (RFC 3339, UTC) and `level` first, and the request it belongs to."""

    def __init__(self, redacted: Patterns = ()) -> None:
        super().__init__("%(message)s")
        self._redacted = redacted

    def add_fields(
        self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]
    ) -> None:
        log_data["timestamp"] = _timestamp(record.created)
        log_data["level"] = record.levelname.lower()
        super().add_fields(log_data, record, message_dict)
        log_data["logger"] = record.name
        request_id = None if "request_id" in log_data else _current_request()
        if request_id:
            log_data["request_id"] = request_id

    def process_log_record(self, log_data: dict[str, Any]) -> dict[str, Any]:
        for name in ("message", "exc_info", "stack_info"):
            if log_data.get(name):
                log_data[name] = redact(log_data[name], self._redacted)
        return log_data


class RedactingHandler(logging.Handler):
    """Writes each line at once and whole; known secrets become masks.

    No line waits for a lock, so gevent's hub may log too. A line is one write, so that no other
    process's line ends up within it. Where nobody reads them any more, lines are lost.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        super().__init__()
        longest_first = sorted(set(secrets), key=len, reverse=True)
        self._secrets = re.compile("|".join([*map(re.escape, longest_first), GENERATED_KEY]))
        # Looked for one by one, as that is all that most lines cost; in JSON as they stand there.
        self._traces = ["weir_", *longest_first]
        self._traces_in_json = [json.dumps(trace)[1:-1].encode() for trace in self._traces]

    def handle(self, record: logging.LogRecord) -> bool:
        self.emit(record)
        return True

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
        except Exception:  # noqa: BLE001 such as a message that does not fit its arguments
            failed = logging.LogRecord(
                record.name, logging.ERROR, record.pathname, record.lineno,
                "This log record could not be formatted: %r", (record.msg,), sys.exc_info(),
            )  # fmt: skip
            line = self.format(failed)
        self.write(line.encode())

    def write(self, line: bytes) -> None:
        """Write a line of ASCII JSON without its secrets."""
        for trace in self._traces_in_json:
            if trace in line:
                line = self._masked(line)
                break
        self.write_as_it_is(line)

    def write_as_it_is(self, line: bytes) -> None:
        line += b"\n"
        try:
            while line:
                line = line[os.write(STDOUT, line) :]
        except OSError:
            pass

    def may_hold_a_secret(self, text: str) -> bool:
        for trace in self._traces:  # noqa: SIM110 any() takes three times as long
            if trace in text:
                return True
        return False

    def _masked(self, line: bytes) -> bytes:
        # In the texts alone: a password may be as short as a number, or look like JSON.
        def masked(text: str) -> str:
            return self._secrets.sub(lambda secret: mask(secret[0]), text)

        return json.dumps(each_text(json.loads(line), masked)).encode()


class WeirGunicornLogger(GunicornLogger):  # type: ignore[misc]
    """Gunicorn's own lines among Weir's; its access log is off, Weir writes its own."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        self.error_log.handlers = []
        self.error_log.propagate = True
        self.access_log.handlers = []

    def access(self, resp: Any, req: Any, environ: Any, request_time: Any) -> None:
        """Nothing: a platform that turns the access log on would get each request twice."""


_handler = RedactingHandler()
_sample = 1.0


def _no_request() -> str | None:
    return None


_current_request = _no_request


def configure(
    level: str,
    secrets: Iterable[str] = (),
    redacted: Patterns = (),
    sample: float = 1.0,
) -> None:
    """Send Weir's own lines at `level` and others' warnings to stdout.

    Of the requests that went well, the share `sample` gets a line.
    """
    global _handler, _sample
    _handler, _sample = RedactingHandler(secrets), sample
    _handler.setFormatter(WeirFormatter(redacted))
    root = logging.getLogger()
    root.handlers = [_handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("webapp").setLevel(level.upper())
    logging.captureWarnings(True)


def tell_requests(current: Callable[[], str | None]) -> None:
    """From now on a line of a request has its id, which `current` says.

    Told later, as Gunicorn's master must not import Flask.
    """
    global _current_request
    _current_request = current


def log_request(record: RequestContext, status: int) -> None:
    """Write the line of one request. Of those that went well, LOG_SAMPLE may leave out some."""
    sampled = _sample < 1 and status < 400 and not (record.error or record.failed)
    if sampled and not _is_chosen(record.request_id):
        return
    level, name = (logging.ERROR, "error") if status >= 500 else (logging.INFO, "info")
    if not request_log.isEnabledFor(level):
        return
    facts = {
        "timestamp": _timestamp(time.time()),
        "level": name,
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
    if sampled:
        facts["sample_rate"] = _sample
    if record.prompt is not None:
        facts |= {"prompt": record.prompt, "answer": record.answer}
    # Past Python's logging, which would cost more than all the rest.
    line = json_codec.dumps(facts)
    if not line.isascii():
        # Some readers take other scripts' line separators for the end of a line.
        line = json.dumps(facts).encode()
    # What others have written; nothing else of it can be a secret.
    theirs = f"{record.request_id} {record.method} {record.model}"
    if record.prompt is not None or _handler.may_hold_a_secret(theirs):
        _handler.write(line)
    else:
        _handler.write_as_it_is(line)


def _is_chosen(request_id: str) -> bool:
    """Whether it is sampled: one id, one verdict, wherever it is asked."""
    return zlib.crc32(request_id.encode()) < _sample * 2**32


def _timestamp(moment: float) -> str:
    second = int(moment)
    return f"{_second(second)}.{int((moment - second) * 1000):03d}+00:00"


@lru_cache(maxsize=2)
def _second(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
