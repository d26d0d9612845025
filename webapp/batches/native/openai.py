"""The batches of OpenAI, Azure OpenAI, and servers that have OpenAI's."""

from __future__ import annotations

import json
import tempfile
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
from webapp.llm.messages import ModelRequest
from webapp.providers.openai import OpenAIProvider
from webapp.threads import run_in_thread

if TYPE_CHECKING:
    from openai import OpenAI

TIMEOUT = 60.0  # seconds without a byte
WRITTEN_TOGETHER = 256 * 1024  # bytes
PAGE = 100  # batches of a listing
MAX_PAGES = 20
# Seconds that the clocks of Weir and the provider may differ by.
CLOCK_SKEW = 3600.0
FILE_KEPT = 30 * 86_400  # seconds, by the provider, where Weir does not come to delete it
# Parameters that a provider names when it does not know an uploaded file yet.
FILE_PARAMETERS = {"file_id", "input_file_id"}
RUNNING = {"validating", "in_progress", "finalizing", "cancelling"}
OUTCOMES = {"expired": EXPIRED, "cancelled": CANCELLED}


class OpenAIBatches:
    """Implements ProviderBatches. Lines are the requests as the provider gets them otherwise."""

    max_lines = 50_000
    max_bytes = 200_000_000
    endpoints = ("/v1/chat/completions", "/v1/embeddings")

    def __init__(self, provider: OpenAIProvider) -> None:
        self._provider = provider

    def exist(self) -> bool:
        with self._client() as client:
            try:
                client.batches.list(limit=1)
            except _errors().NotFoundError:
                return False
            except _errors().APIStatusError as error:
                if error.status_code in {405, 501}:
                    return False
                raise
        return True

    def line(self, custom_id: str, endpoint: str, request: ModelRequest, model: str) -> bytes:
        body = self._provider.whole_body(request, model)
        line = {"custom_id": custom_id, "method": "POST", "url": self._url(endpoint), "body": body}
        return json.dumps(line).encode() + b"\n"

    def upload(self, token: str, lines: Iterable[bytes]) -> str | None:
        with tempfile.TemporaryFile() as file:
            for block in _blocks(lines):
                run_in_thread(lambda block=block: file.write(block))  # type: ignore[misc]
            file.seek(0)
            with self._client() as client:
                uploaded = client.files.create(
                    file=(f"{token}.jsonl", file, "application/jsonl"),
                    purpose="batch",
                    expires_after={"anchor": "created_at", "seconds": FILE_KEPT},
                )
        return uploaded.id

    def create(self, token: str, endpoint: str, file_id: str | None, lines: Iterable[bytes]) -> str:
        assert file_id, "The file was uploaded before."
        url: Any = self._url(endpoint)
        with self._client() as client:
            batch = client.batches.create(
                input_file_id=file_id,
                endpoint=url,
                completion_window="24h",
                metadata={"weir_token": token},
            )
        return batch.id

    def find(self, token: str, since: float, count: int, known: Collection[str]) -> str | None:
        with self._client() as client:
            page = client.batches.list(limit=PAGE)
            for _ in range(MAX_PAGES):
                for batch in page.data:
                    if (batch.metadata or {}).get("weir_token") == token:
                        return batch.id
                    if batch.created_at < since - CLOCK_SKEW:
                        return None
                if not page.has_next_page():
                    return None
                page = page.get_next_page()
        # Rather not submitted than paid twice.
        raise ProviderAway("The provider lists too many batches to be sure.")

    def progress(self, batch_id: str) -> Progress:
        with self._client() as client:
            batch = client.batches.retrieve(batch_id)
        status: str = batch.status
        outcome = OUTCOMES.get(status, MISSING)
        if status == "failed":
            reasons = (batch.errors and batch.errors.data) or []
            outcome = error_code(reasons[0].to_dict() if reasons else None)
        return Progress(
            ended=status not in RUNNING,
            cancellable=status in {"validating", "in_progress"},
            outcome=outcome,
            was_run=status == "completed",
        )

    def cancel(self, batch_id: str) -> None:
        with self._client() as client:
            client.batches.cancel(batch_id)

    def results(self, batch_id: str, model: str) -> Iterator[LineResult]:
        with self._client() as client:
            batch = client.batches.retrieve(batch_id)
            for file_id in filter(None, (batch.output_file_id, batch.error_file_id)):
                with client.files.with_streaming_response.content(file_id) as response:
                    for line in _lines(response.iter_bytes()):
                        yield _result(line)

    def forget(self, batch_id: str, file_id: str | None) -> None:
        with self._client() as client:
            batch = client.batches.retrieve(batch_id)
            for known in (batch.output_file_id, batch.error_file_id, file_id):
                if known:
                    client.files.delete(known)

    def _url(self, endpoint: str) -> str:
        """Azure's lines name its own paths."""
        return endpoint.removeprefix("/v1") if self._provider.kind == "azure" else endpoint

    @contextmanager
    def _client(self) -> Iterator[OpenAI]:
        """A client with the provider's present key. Nothing is sent twice by it."""
        import openai

        base_url, headers, query = self._provider.connection
        hooks = [] if "Authorization" in headers else [_without_authorization]
        client = openai.OpenAI(
            api_key="none",
            base_url=base_url,
            default_headers={**_no_headers_of_environment(), **headers},
            default_query=query,
            max_retries=0,
            timeout=TIMEOUT,
            http_client=openai.DefaultHttpxClient(event_hooks={"request": hooks}),
        )
        with client:
            try:
                yield client
            except openai.APIStatusError as error:
                code, message = error_code(error.body)
                is_new = error.param in FILE_PARAMETERS
                if error.status_code >= 500 or error.status_code in TEMPORARY or is_new:
                    raise ProviderAway(f"{error.status_code} {code}") from error
                raise Refused(code, message) from error
            except (openai.OpenAIError, OSError, ValueError) as error:
                raise ProviderAway(type(error).__name__) from error
            except _transport_errors() as error:
                raise ProviderAway(type(error).__name__) from error


def _errors() -> Any:
    import openai

    return openai


def _without_authorization(request: Any) -> None:
    """The SDK sends the key in this header, too, which not all servers take for one."""
    request.headers.pop("Authorization", None)


def _no_headers_of_environment() -> dict[str, Any]:
    """Without these, the SDK sends what OPENAI_ORG_ID and OPENAI_PROJECT_ID say."""
    omit = _errors().Omit()
    return {"OpenAI-Organization": omit, "OpenAI-Project": omit}


def _transport_errors() -> Any:
    """What breaks while a file is read, which the SDK leaves as it is."""
    import httpx2

    return httpx2.HTTPError


def _blocks(lines: Iterable[bytes]) -> Iterator[bytes]:
    block = bytearray()
    for line in lines:
        block += line
        if len(block) >= WRITTEN_TOGETHER:
            yield bytes(block)
            block.clear()
    yield bytes(block)


def _lines(chunks: Iterable[bytes]) -> Iterator[str]:
    """Split at line feeds alone: a text in JSON may hold what else Unicode takes for a line end."""
    begun = b""
    for chunk in chunks:
        *whole, begun = (begun + chunk).split(b"\n")
        yield from (line.decode() for line in whole if line.strip())
    if begun.strip():
        yield begun.decode()


def _result(line: str) -> LineResult:
    """Raises ValueError for a line that is cut."""
    found = json.loads(line)
    if not isinstance(found, dict):
        raise ValueError("no object")
    custom_id = str(found.get("custom_id"))
    response = found.get("response")
    if not isinstance(response, dict):
        return LineResult(custom_id, 0, b"", error=error_code(found.get("error")))
    status, request_id = response.get("status_code"), response.get("request_id")
    return LineResult(
        custom_id,
        status if isinstance(status, int) else 500,
        _verbatim(line, response.get("body")),
        str(request_id or ""),
    )


def _verbatim(line: str, body: Any) -> bytes:
    """The text of the response's body as it stands in the line: no number is written anew."""
    decoder = json.JSONDecoder()
    start = line.find('"body"')
    while start >= 0:
        after = line[start + 6 :].lstrip()
        if after.startswith(":"):
            text = after[1:].lstrip()
            try:
                value, end = decoder.raw_decode(text)
            except ValueError:
                value, end = None, 0
            if end and value == body:
                return text[:end].encode("utf-8", "surrogatepass")
        start = line.find('"body"', start + 1)
    return json.dumps(body).encode()
