"""Anthropic's Message Batches. Its lines are chat completions, translated as single calls are."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from webapp.batches.native.ports import (
    CANCELLED,
    EXPIRED,
    MISSING,
    TEMPORARY,
    LineResult,
    Progress,
    ProviderAway,
    Refused,
    error_code,
)
from webapp.errors import WeirError
from webapp.llm.messages import ModelRequest
from webapp.providers.anthropic import AnthropicProvider
from webapp.providers.message_answers import STATUS_OF_TYPE

if TYPE_CHECKING:
    from anthropic import Anthropic

TIMEOUT = 60.0  # seconds without a byte
PAGE = 100  # batches of a listing
MAX_PAGES = 20
MAX_LOOKED_INTO = 50  # batches whose first result is read to find a token
# Seconds that the clocks of Weir and the provider may differ by.
CLOCK_SKEW = 3600.0
OUTCOMES = {"expired": EXPIRED, "canceled": CANCELLED}


class AnthropicBatches:
    """Implements ProviderBatches.

    A batch is one request of JSON: its parts are smaller than the provider allows (100,000 lines,
    256 MB), as it is in memory as a whole.
    """

    max_lines = 10_000
    max_bytes = 8_000_000
    endpoints = ("/v1/chat/completions",)

    def __init__(self, provider: AnthropicProvider) -> None:
        self._provider = provider

    def exist(self) -> bool:
        import anthropic

        with self._client() as client:
            try:
                client.messages.batches.list(limit=1)
            except anthropic.NotFoundError:
                return False
        return True

    def line(self, custom_id: str, endpoint: str, request: ModelRequest, model: str) -> bytes:
        line = {"custom_id": custom_id, "params": self._provider.parameters(request, model)}
        return json.dumps(line).encode() + b"\n"

    def upload(self, token: str, lines: Iterable[bytes]) -> str | None:
        return None

    def create(self, token: str, endpoint: str, file_id: str | None, lines: Iterable[bytes]) -> str:
        from anthropic.types.messages import MessageBatch

        content = b'{"requests":[' + b",".join(line.strip() for line in lines) + b"]}"
        # What the SDK makes of so many objects would block the event loop for a second.
        with self._client() as client:
            batch = client.post("/v1/messages/batches", content=content, cast_to=MessageBatch)
        return batch.id

    def find(self, token: str, since: float, count: int, known: Collection[str]) -> str | None:
        """A batch has no metadata: only its results tell whose it is, once it has ended.

        So long as a batch runs that may be it, nothing is known, and nothing must be sent again.
        """
        looked_into = 0
        with self._client() as client:
            page = client.messages.batches.list(limit=PAGE)
            for _ in range(MAX_PAGES):
                for batch in page.data:
                    if batch.created_at.timestamp() < since - CLOCK_SKEW:
                        return None
                    counts: dict[str, Any] = batch.request_counts.to_dict()
                    if batch.id in known or sum(counts.values()) != count:
                        continue
                    if batch.processing_status != "ended":
                        raise ProviderAway("A batch runs at the provider that may be this one.")
                    looked_into += 1
                    if looked_into > MAX_LOOKED_INTO:
                        raise ProviderAway("The provider lists too many batches to be sure.")
                    first = next(iter(client.messages.batches.results(batch.id)), None)
                    if first and first.custom_id.startswith(f"{token}-"):
                        return batch.id
                if not page.has_next_page():
                    return None
                page = page.get_next_page()
        raise ProviderAway("The provider lists too many batches to be sure.")

    def progress(self, batch_id: str) -> Progress:
        with self._client() as client:
            batch = client.messages.batches.retrieve(batch_id)
        return Progress(
            ended=batch.processing_status == "ended",
            cancellable=batch.processing_status == "in_progress",
            outcome=MISSING,
            was_run=True,
        )

    def cancel(self, batch_id: str) -> None:
        with self._client() as client:
            client.messages.batches.cancel(batch_id)

    def results(self, batch_id: str, model: str) -> Iterator[LineResult]:
        with self._client() as client:
            for line in client.messages.batches.results(batch_id):
                yield self._result(line, model)

    def forget(self, batch_id: str, file_id: str | None) -> None:
        with self._client() as client:
            client.messages.batches.delete(batch_id)

    def _result(self, line: Any, model: str) -> LineResult:
        result = line.result
        if result.type == "succeeded":
            message = result.message.model_dump_json(exclude_unset=True)
            text = self._provider.written(message, model)
            return LineResult(line.custom_id, 200, text.encode("utf-8", "surrogatepass"))
        if result.type == "errored":
            error = result.error.error.to_dict()
            status = STATUS_OF_TYPE.get(str(error.get("type")), 500)
            code, message = error_code(error)
            body = {"error": {"message": message, "type": code, "param": None, "code": code}}
            request_id = getattr(result.error, "request_id", None) or ""
            return LineResult(line.custom_id, status, json.dumps(body).encode(), request_id)
        return LineResult(line.custom_id, 0, b"", error=OUTCOMES.get(result.type, MISSING))

    @contextmanager
    def _client(self) -> Iterator[Anthropic]:
        """A client with the provider's present key. Nothing is sent twice by it."""
        import anthropic
        import httpx2

        url, key, headers, query = self._provider.connection
        client = anthropic.Anthropic(
            api_key=key,
            base_url=url,
            default_headers=headers,
            default_query=query,
            max_retries=0,
            timeout=TIMEOUT,
        )
        with client:
            try:
                yield client
            except anthropic.APIStatusError as error:
                body = error.body if isinstance(error.body, dict) else {}
                code, message = error_code(body.get("error"))
                if error.status_code >= 500 or error.status_code in TEMPORARY:
                    raise ProviderAway(f"{error.status_code} {code}") from error
                raise Refused(code, message) from error
            except WeirError as error:
                raise ProviderAway(error.name) from error
            except (anthropic.AnthropicError, httpx2.HTTPError, OSError, ValueError) as error:
                raise ProviderAway(type(error).__name__) from error
