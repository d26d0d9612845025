"""A job: a native request that is answered later. What is stored of it, and its statuses."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from webapp import json_codec
from webapp.batches.batch import Batch, JobLine
from webapp.batches.batch_store import EXPIRED_ERROR
from webapp.batches.tables import LineState

WINDOW = 86_400.0  # seconds in which a job must begin
STATUS_CODE = re.compile(rb'\{"status_code": (\d{3})')


class JobStatus(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    """The endpoint answered."""
    FAILED = "failed"
    """The endpoint answered with an error."""
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    """It could not be answered in WINDOW."""

    @property
    def has_ended(self) -> bool:
        return self not in {JobStatus.QUEUED, JobStatus.RUNNING}


@dataclass(frozen=True, slots=True)
class JobRequest:
    """The request that a job sends to the application when it runs."""

    path: str
    cache_control: str | None
    body: Any

    def to_bytes(self) -> bytes:
        fields = {"path": self.path, "cache_control": self.cache_control, "body": self.body}
        return json_codec.dumps(fields)

    @classmethod
    def of_bytes(cls, stored: bytes) -> JobRequest:
        return cls(**json_codec.loads(stored))


def status_of(job: Batch, line: JobLine) -> JobStatus:
    if job.cancelling_at:
        return JobStatus.CANCELLED
    if line.state is LineState.SUCCEEDED:
        return JobStatus.COMPLETED
    if line.state is LineState.FAILED:
        expired = line.error == EXPIRED_ERROR["code"]
        return JobStatus.EXPIRED if expired else JobStatus.FAILED
    return JobStatus.RUNNING if line.state is LineState.RUNNING else JobStatus.QUEUED


def status_code_of(line: JobLine) -> int | None:
    """The status of the endpoint's response, if there is one."""
    found = STATUS_CODE.match(line.result or b"")
    return int(found[1]) if found else None


def result_of(status_code: int, body: bytes) -> bytes:
    """The stored result: fields of the job, as JSON."""
    name = b"response" if status_code < 400 else b"error"
    return b'{"status_code": %d, "%s": %s}' % (status_code, name, body.strip())
