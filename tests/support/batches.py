"""Batches by the openai SDK, for tests: lines up, results down."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from contextlib import suppress
from datetime import date
from typing import Any

import httpx2
import openai

from tests.support.servers import REPOSITORY, Server, Weir, wait_until
from webapp.batches.batch import Batch
from webapp.llm.calls import CallState
from webapp.metering.calls import TOKEN_COLUMNS, ledger
from webapp.metering.ledger import CALL_IDS_PER_WORKER
from webapp.storage.database import Database

ENDED = {"completed", "failed", "expired", "cancelled"}
CHAT = "/v1/chat/completions"


def line(custom_id: str, text: str = "hello", **fields: Any) -> dict[str, Any]:
    """A line for chat completions; `fields` are those of its body."""
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": text}]} | fields
    return {"custom_id": custom_id, "method": "POST", "url": CHAT, "body": body}


def jsonl(lines: Iterable[Any]) -> bytes:
    return b"".join(json.dumps(one).encode() + b"\n" for one in lines)


def no_idle_connections() -> Any:
    """A client of the SDK's own kind that leaves no connection behind, as nobody closes it."""
    return openai.DefaultHttpxClient(limits=httpx2.Limits(max_keepalive_connections=0))


class BatchClient:
    """One key's batches."""

    def __init__(self, weir: Weir, key: str) -> None:
        self.sdk = openai.OpenAI(
            base_url=f"{weir.url}/v1", api_key=key, max_retries=0, http_client=no_idle_connections()
        )

    def upload(self, content: bytes) -> str:
        return self.sdk.files.create(file=("lines.jsonl", content), purpose="batch").id

    def begin(self, content: bytes | list[Any], endpoint: str = CHAT, **metadata: str) -> str:
        """Upload lines and create their batch."""
        text = content if isinstance(content, bytes) else jsonl(content)
        batch = self.sdk.batches.create(
            input_file_id=self.upload(text),
            endpoint=endpoint,  # type: ignore[arg-type]
            completion_window="24h",
            metadata=metadata or None,
        )
        return batch.id

    def get(self, batch_id: str) -> Any:
        return self.sdk.batches.retrieve(batch_id)

    def ended(self, batch_id: str, timeout: float = 60.0) -> Any:
        """The batch, once it has ended."""
        found: list[Any] = []

        def has_ended() -> bool:
            with suppress(openai.InternalServerError):  # a store may be away for a moment
                found[:] = [self.get(batch_id)]
            return bool(found) and found[0].status in ENDED

        wait_until(has_ended, timeout, f"the end of {batch_id}", pause=0.05)
        return found[0]

    def run(self, content: bytes | list[Any], endpoint: str = CHAT, **metadata: str) -> Any:
        """The batch of these lines, once it has ended."""
        return self.ended(self.begin(content, endpoint, **metadata))

    def progressed(self, batch_id: str, lines: int, timeout: float = 30.0) -> None:
        """Wait until so many lines have ended."""
        wait_until(
            lambda: self._done(batch_id) >= lines, timeout, f"{lines} lines of {batch_id}",
            pause=0.05,
        )  # fmt: skip

    def _done(self, batch_id: str) -> int:
        counts = self.get(batch_id).request_counts
        return counts.completed + counts.failed

    def lines_of(self, file_id: str | None) -> list[dict[str, Any]]:
        """The lines of a file; none where there is no file."""
        if file_id is None:
            return []
        text = self.sdk.files.content(file_id).read()
        return [json.loads(one) for one in text.splitlines()]

    def output(self, batch: Any) -> list[dict[str, Any]]:
        return self.lines_of(batch.output_file_id)

    def errors(self, batch: Any) -> list[dict[str, Any]]:
        return self.lines_of(batch.error_file_id)


def add_calls(database: Database, batch: Batch, worker_id: int, *numbers: int) -> None:
    """Let the ledger say that a worker has called a provider for these lines."""
    rows = [
        {
            "id": worker_id * CALL_IDS_PER_WORKER + number,
            "worker_id": worker_id,
            "key_id": batch.key_id,
            "request_id": "r",
            "endpoint": batch.endpoint,
            "route": "r",
            "provider": "p",
            "model": "m",
            "attempt": 1,
            "state": CallState.RESERVED,
            "day": date(2026, 1, 1),
            "reserved_at": 0.0,
            "ceiling_input_tokens": 1,
            "ceiling_output_tokens": 1,
            "estimated": False,
            "batch_id": batch.id,
            "batch_line": number,
            **dict.fromkeys(TOKEN_COLUMNS, 0),
        }
        for number in numbers
    ]
    database.write(lambda connection: connection.execute(ledger.insert(), rows))


class BatchWorker(Server):
    """`flask worker` with the settings of a Weir, ready when others see it."""

    def __init__(self, weir: Weir) -> None:
        super().__init__()
        self.env = weir.env

    @property
    def pid(self) -> int:
        assert self.process
        return self.process.pid

    def _command(self) -> list[str]:
        return [sys.executable, "-m", "webapp.batch_worker"]

    def _process_options(self) -> dict[str, Any]:
        return {"cwd": REPOSITORY, "env": self.env}

    def _is_ready(self) -> bool:
        return "Working on batches" in self._output_files()[0].read_text()
