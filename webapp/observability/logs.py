"""Logs: one JSON object per line on stdout, from Weir and Gunicorn, without secrets."""

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
    """JSON with `timestamp` (RFC 3339, UTC) and `level` first, and the request id."""

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
    """Writes each line immediately with one write; known secrets are masked.

    It takes no lock, so that gevent's hub can log too. One write per line keeps lines of several
    processes apart. If stdout is closed, lines are lost.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        super().__init__()
        self._known: frozenset[str] = frozenset()
        self.add(secrets)

    def add(self, secrets: Iterable[str]) -> None:
        """Mask these too."""
        self._known |= frozenset(secrets)
        longest_first = sorted(self._known, key=len, reverse=True)
        self._secrets = re.compile("|".join([*map(re.escape, longest_first), GENERATED_KEY]))
        # Searched one by one, as most lines have none. In JSON, secrets may have escapes.
        self._traces = ["weir_", *longest_first]
        self._traces_in_json = [json.dumps(trace)[1:-1].encode() for trace in self._traces]

    def handle(self, record: logging.LogRecord) -> bool:
        self.emit(record)
        return True

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
        except Exception:  # noqa: BLE001 for example a message that does not fit its arguments
            failed = logging.LogRecord(
                record.name, logging.ERROR, record.pathname, record.lineno,
                "This log record could not be formatted: %r", (record.msg,), sys.exc_info(),
            )  # fmt: skip
            line = self.format(failed)
        self.write(line.encode())

    def write(self, line: bytes) -> None:
        """Write a line of ASCII JSON with secrets masked."""
        for trace in self._traces_in_json:
            if trace in line:
                line = self._masked(line)
                break
        self.write_unmasked(line)

    def write_unmasked(self, line: bytes) -> None:
        line += b"\n"
        try:
            while line:
                line = line[os.write(STDOUT, line) :]
        except OSError:
            pass

    def may_contain_secret(self, text: str) -> bool:
        for trace in self._traces:  # noqa: SIM110 any() takes three times as long
            if trace in text:
                return True
        return False

    def _masked(self, line: bytes) -> bytes:
        # Only in strings: a password may look like a number or like JSON.
        return json.dumps(each_text(json.loads(line), self.masked)).encode()

    def masked(self, text: str) -> str:
        """The text with known secrets masked."""
        return self._secrets.sub(lambda secret: mask(secret[0]), text)


class WeirGunicornLogger(GunicornLogger):  # type: ignore[misc]
    """Sends Gunicorn's error log to Weir's handler. Weir writes its own access log."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        self.error_log.handlers = []
        self.error_log.propagate = True
        self.access_log.handlers = []

    def access(self, resp: Any, req: Any, environ: Any, request_time: Any) -> None:
        """Write nothing, even if a platform turns the access log on: it would be a duplicate."""


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
    """Send Weir's logs at `level`, and warnings of libraries, to stdout.

    The share `sample` of the successful requests is logged.
    """
    global _handler, _sample
    _handler, _sample = RedactingHandler(secrets), sample
    _handler.setFormatter(WeirFormatter(redacted))
    root = logging.getLogger()
    root.handlers = [_handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("webapp").setLevel(level.upper())
    logging.captureWarnings(True)


def add_secrets(secrets: Iterable[str]) -> None:
    """Mask these too, in all further lines."""
    _handler.add(secrets)


def add_request_ids(current: Callable[[], str | None]) -> None:
    """Add the request id that `current` returns to all further lines.

    This is not part of configure(), as Gunicorn's master must not import Flask.
    """
    global _current_request
    _current_request = current


def masked(text: str) -> str:
    """The text with the secrets masked that the log masks."""
    return _handler.masked(text)


def log_request(context: RequestContext, status: int) -> None:
    """Write the line of one request. Successful ones are sampled with LOG_SAMPLE."""
    sampled = _sample < 1 and status < 400 and not (context.error or context.attempts)
    if sampled and not _is_chosen(context.request_id):
        return
    level, name = (logging.ERROR, "error") if status >= 500 else (logging.INFO, "info")
    if not request_log.isEnabledFor(level):
        return
    fields: dict[str, Any] = {
        "timestamp": _timestamp(time.time()),
        "level": name,
        "request_id": context.request_id,
        "api_key": context.api_key,
        "tier": context.tier,
        "endpoint": context.endpoint,
        "method": context.method,
        "status_code": status,
        "response_time_ms": round(context.milliseconds, 2),
        "cache_hit": context.cache in {"HIT", "STALE"} if context.cache else None,
        "model": context.routed_model,
        "provider": context.provider,
        "tokens": context.tokens,
        "cost_usd": context.cost_usd,
        "error": context.error,
        "trace_id": context.trace_id,
    }
    for other in ("asked_model", "answered_model"):
        if (name := getattr(context, other)) and name != context.routed_model:
            fields[other] = name
    if context.attempts:
        fields["attempts"] = context.attempts
    if sampled:
        fields["sample_rate"] = _sample
    if context.prompt is not None:
        fields |= {"prompt": context.prompt, "answer": context.answer}
    # Python's logging is bypassed, as it would take longer than all the rest.
    line = json_codec.dumps(fields)
    if not line.isascii():
        # Escaped, as some readers split lines at Unicode's line separators.
        line = json.dumps(fields).encode()
    # Only these values come from clients, so only they can contain a secret: the words in
    # `attempts` have been redacted.
    from_client = f"{context.request_id} {context.method} {context.model} {context.asked_model}"
    if context.prompt is not None or _handler.may_contain_secret(from_client):
        _handler.write(line)
    else:
        _handler.write_unmasked(line)


def _is_chosen(request_id: str) -> bool:
    """Whether a request is in the sample. The decision depends on its id alone."""
    return zlib.crc32(request_id.encode()) < _sample * 2**32


def _timestamp(moment: float) -> str:
    second = int(moment)
    return f"{_second(second)}.{int((moment - second) * 1000):03d}+00:00"


@lru_cache(maxsize=2)
def _second(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
