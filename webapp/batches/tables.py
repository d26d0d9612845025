"""The tables of batches and their lines, and the states that these have.

A job is a batch of one line, whose request lies in the line itself.
"""

from __future__ import annotations

from enum import StrEnum

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    Integer,
    LargeBinary,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from webapp.storage.database import metadata

# Times are Unix seconds, by the clocks of the processes that wrote them.
batches = Table(
    "batches",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("kind", String(8), nullable=False),
    Column("key_id", Integer, nullable=False),
    Column("endpoint", String(64), nullable=False),
    Column("state", String(12), nullable=False),
    Column("completion_window", String(8), nullable=False),
    Column("input_file_id", String(40)),
    Column("output_file_id", String(40)),
    Column("error_file_id", String(40)),
    # JSON: the client's own pairs of names and texts.
    Column("metadata", Text),
    # How it is worked on, and why: see Mode.
    Column("mode", String(8), nullable=False),
    Column("mode_reason", String(300)),
    Column("cap_nano", BigInteger),
    Column("on_lost", String(8), nullable=False),
    # Seconds for which the output is kept, where the client named them.
    Column("output_expires_after", Integer),
    Column("total", Integer, nullable=False),
    Column("succeeded", Integer, nullable=False),
    Column("failed", Integer, nullable=False),
    # JSON: the errors of validation, in OpenAI's format.
    Column("errors", Text),
    # JSON: the error of the lines that were not begun, as a cancelled or expired batch has them.
    Column("stopped_by", Text),
    # JSON: how many lines of a batch that has ended failed, by the code of their error.
    Column("failures", Text),
    # The worker that validates or finalizes it now.
    Column("worker_id", Integer),
    # The request that created it.
    Column("request_id", String(128), nullable=False),
    Column("callback_url", Text),
    Column("callback_attempts", Integer, nullable=False),
    # When the callback is to be sent next; null when it is delivered, given up, or not due yet.
    Column("callback_due_at", Float),
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float, nullable=False),
    Column("in_progress_at", Float),
    Column("finalizing_at", Float),
    Column("completed_at", Float),
    Column("failed_at", Float),
    Column("expired_at", Float),
    Column("cancelling_at", Float),
    Column("cancelled_at", Float),
)

batch_lines = Table(
    "batch_lines",
    metadata,
    Column("batch_id", String(40), primary_key=True),
    # From 1, as in the input file.
    Column("number", Integer, primary_key=True),
    Column("custom_id", String(512), nullable=False),
    Column("state", String(10), nullable=False),
    # Where the line is in the input file, in bytes.
    Column("position", BigInteger, nullable=False),
    Column("length", Integer, nullable=False),
    # JSON: the request of a job, until it has ended.
    Column("request", LargeBinary),
    # The worker that runs it; 0 for a line that the provider has in a batch of its own.
    Column("worker_id", Integer),
    Column("tries", Integer, nullable=False),
    # How often a worker was lost that ran it.
    Column("lost", Integer, nullable=False),
    Column("not_before", Float, nullable=False),
    # The code of the error that it ended with.
    Column("error", String(64)),
    # JSON: its line of the output or error file.
    Column("result", LargeBinary),
    UniqueConstraint("batch_id", "custom_id"),
)

# Batches of the providers' own: each has a part of the lines of one of Weir's.
native_batches = Table(
    "native_batches",
    metadata,
    Column("batch_id", String(40), primary_key=True),
    Column("part", Integer, primary_key=True),
    Column("provider", String(32), nullable=False),
    Column("model", String(256), nullable=False),
    # By which the provider's batch is known before its id is.
    Column("token", String(64), nullable=False),
    Column("state", String(12), nullable=False),
    Column("provider_file_id", String(256)),
    Column("provider_batch_id", String(256)),
    Column("first_line", Integer, nullable=False),
    Column("last_line", Integer, nullable=False),
    # The ledger's row of the first line; the others follow it by number.
    Column("first_call", BigInteger),
    # The worker that takes a step with it now.
    Column("worker_id", Integer),
    Column("due_at", Float, nullable=False),
    # When the provider was told to cancel it.
    Column("cancelled_at", Float),
    Column("created_at", Float, nullable=False),
    Column("collected_at", Float),
)

# What has been counted since the beginning, for metrics: rows of batches go.
batch_totals = Table(
    "batch_totals",
    metadata,
    Column("name", String(20), primary_key=True),
    Column("value", BigInteger, nullable=False),
)


class BatchState(StrEnum):
    """OpenAI's statuses of a batch."""

    VALIDATING = "validating"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


ACTIVE = (
    BatchState.VALIDATING,
    BatchState.IN_PROGRESS,
    BatchState.FINALIZING,
    BatchState.CANCELLING,
)


class LineState(StrEnum):
    """`running` belongs to the worker that is named with it."""

    WAITING = "waiting"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


class NativeState(StrEnum):
    """The state of a part that the provider gets as a batch of its own."""

    RESERVING = "reserving"
    """Its lines' ceilings are being reserved."""
    PREPARED = "prepared"
    SUBMITTING = "submitting"
    """The provider may have it."""
    SUBMITTED = "submitted"
    COLLECTED = "collected"


class Kind(StrEnum):
    BATCH = "batch"
    JOB = "job"


class Mode(StrEnum):
    """`direct`: each line is a call through the gateway. `native`: the provider's own batch."""

    DIRECT = "direct"
    NATIVE = "native"
    AUTO = "auto"
    """As a client asks for it; the validation decides."""
