"""OpenAI, and everything that speaks its protocol, through the openai SDK.

Requests and answers pass the SDK as plain JSON (`client.post`, its documented way for what it does
not model): building its typed objects would cost more than the rest of a call.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.request import getproxies

from gevent.lock import BoundedSemaphore

from webapp.errors import (
    ModelNotFound,
    ProviderBusy,
    ProviderFailed,
    ProviderRefusedRequest,
    ProviderTimedOut,
    WeirError,
)
from webapp.llm.messages import Answer, ChatRequest, Usage, estimate_tokens
from webapp.providers.base import BaseProvider

if TYPE_CHECKING:
    import httpx2
    from openai import APIStatusError, OpenAI

OFFICIAL_URL = "https://api.openai.com/v1"
CONNECT_TIMEOUT = 10.0
LISTING_TIMEOUT = 5.0
LISTED_FOR = 300.0
LISTED_AGAIN_AFTER = 5.0
REFUSALS = {400, 404, 413, 422}


class OpenAIProvider(BaseProvider):
    """One server of OpenAI's protocol; `base_url` empty means OpenAI itself."""

    name = "openai"

    def __init__(self, *, api_key: str, base_url: str, timeout: float) -> None:
        super().__init__(timeout)
        self._api_key = api_key
        self._base_url = base_url
        self._official = not base_url or base_url.rstrip("/") == OFFICIAL_URL
        self._making = BoundedSemaphore()
        self._made: OpenAI | None = None
        self._listing = BoundedSemaphore()
        self._listed: tuple[str | None, float] = (None, -LISTED_FOR)
        # OpenAI's models take far more; of another server nothing is known, and small windows are
        # common there and cut without a word.
        self.piece_tokens = 100_000 if self._official else 3_000
        self.identity = f"openai@{base_url or OFFICIAL_URL}"

    @property
    def _client(self) -> OpenAI:
        # Made with the first call, which takes 0.4 s and 50 MB; of many first calls, one makes it.
        if self._made is None:
            with self._making:
                if self._made is None:
                    self._made = self._make_client()
        return self._made

    def _make_client(self) -> OpenAI:
        import httpx2
        from openai import OpenAI

        from webapp.providers.connections import ConnectionStack

        # Behind a forward proxy (HTTPS_PROXY) httpx finds its own way.
        transport = None if getproxies() else ConnectionStack()
        # BaseProvider bounds every wait; these catch what it cannot interrupt.
        timeout = httpx2.Timeout(self._timeout + 1, connect=min(CONNECT_TIMEOUT, self._timeout))
        return OpenAI(
            api_key=self._api_key or "none",
            base_url=self._base_url or OFFICIAL_URL,
            max_retries=0,
            timeout=timeout,
            http_client=httpx2.Client(transport=transport, timeout=timeout, follow_redirects=True),
        )

    def default_model(self) -> str | None:
        """The first model that a custom server lists; asked again now and then, by one."""
        if not self._official and not self._listing_is_fresh():
            with self._listing:
                if not self._listing_is_fresh():
                    self._listed = (self._first_listed(), time.monotonic())
        return self._listed[0]

    def _listing_is_fresh(self) -> bool:
        model, listed_at = self._listed
        return time.monotonic() - listed_at < (LISTED_FOR if model else LISTED_AGAIN_AFTER)

    def _first_listed(self) -> str | None:
        try:
            return next(iter(self._list_models()), None)
        except Exception as error:
            if not isinstance(self._known(error), WeirError):
                raise
            # The last known one serves: what the cache holds for it can still be answered.
            return self._listed[0]

    def _list_models(self) -> list[str]:
        response = self._client.get(
            "/models", cast_to=_response_class(), options={"timeout": LISTING_TIMEOUT}
        )
        with _shape():
            return [str(model["id"]) for model in json.loads(response.content)["data"]]

    def _answer(self, request: ChatRequest, model: str) -> Answer:
        response = self._client.post(
            "/chat/completions", cast_to=_response_class(), body=self._body(request, model)
        )
        with _shape():
            body = json.loads(response.content)
            content = body["choices"][0]["message"]["content"] or ""
            return self._complete(request, model, content, body)

    def _stream(self, request: ChatRequest, model: str) -> Iterator[str | Answer]:
        from openai import Stream

        body = self._body(request, model) | {
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        response = self._client.post(
            "/chat/completions",
            cast_to=_response_class(),
            body=body,
            stream=True,
            stream_cls=Stream[Any],
        )
        try:
            yield from self._pieces(request, model, response)  # type: ignore[arg-type]
        finally:
            response.close()

    def _pieces(
        self, request: ChatRequest, model: str, response: httpx2.Response
    ) -> Iterator[str | Answer]:
        pieces: list[str] = []
        seen: dict[str, Any] = {}
        finished = False
        for data in _events(response):
            if data == b"[DONE]":
                finished = True
                break
            with _shape():
                chunk = json.loads(data)
                if "error" in chunk:
                    raise ProviderFailed("The provider reported an error in its stream.")
                for name in ("model", "usage"):
                    seen[name] = chunk.get(name) or seen.get(name)
                choice = chunk["choices"][0] if chunk["choices"] else {}
                finished = finished or bool(choice.get("finish_reason"))
                piece = (choice.get("delta") or {}).get("content")
            if piece:
                pieces.append(piece)
                yield piece
        if not finished:
            raise ProviderFailed("The provider's stream was cut before its end.")
        with _shape():
            answer = self._complete(request, model, "".join(pieces), seen)
        yield answer

    def _body(self, request: ChatRequest, model: str) -> dict[str, Any]:
        # OpenAI's newer models take only the new name; most other servers only the old one.
        limit = "max_completion_tokens" if self._official else "max_tokens"
        body = {
            "model": model,
            "messages": [{"role": m.role, "content": m.content} for m in request.messages],
            "temperature": request.temperature,
            limit: request.max_tokens,
        }
        return {name: value for name, value in body.items() if value is not None}

    def _complete(
        self, request: ChatRequest, model: str, content: str, body: dict[str, Any]
    ) -> Answer:
        usage = body.get("usage") or {}
        if "prompt_tokens" in usage and "completion_tokens" in usage:
            counted = Usage(int(usage["prompt_tokens"]), int(usage["completion_tokens"]))
        else:
            prompt = sum(estimate_tokens(message.content) for message in request.messages)
            counted = Usage(prompt, estimate_tokens(content))
        return Answer(content, body.get("model") or model, self.name, counted)

    def _translate(self, error: Exception) -> WeirError | None:
        import httpx2
        import openai

        if isinstance(error, openai.APITimeoutError | httpx2.TimeoutException):
            return ProviderTimedOut("The provider did not answer in time.")
        if isinstance(error, openai.APIStatusError):
            return _translate_status(error)
        if isinstance(error, openai.APIConnectionError):
            return ProviderFailed("The provider cannot be reached.")
        if isinstance(error, openai.OpenAIError | httpx2.HTTPError):
            return ProviderFailed("The provider's answer broke off.")
        return None


@contextmanager
def _shape() -> Iterator[None]:
    """Around all that reads what the provider sent: anything may be in there."""
    try:
        yield
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise ProviderFailed("The provider's answer is not of OpenAI's shape.") from None


def _translate_status(error: APIStatusError) -> WeirError:
    status, body = error.status_code, error.body if isinstance(error.body, dict) else {}
    code = body.get("code")
    said = str(body.get("message") or "").strip()[:1000]
    if status == 404 and code == "model_not_found":
        return ModelNotFound(said or None)
    if status in REFUSALS:
        return ProviderRefusedRequest(
            f"The provider refused the request: {said or f'status {status}'}"
        )
    if status == 429 and code != "insufficient_quota":
        wait = _seconds(error.response.headers.get("retry-after"))
        return ProviderBusy("The provider has too many requests just now.", retry_after=wait)
    if status in {401, 402, 403, 429}:
        return ProviderFailed("The provider refuses Weir's credentials or its quota.")
    if status in {408, 504}:
        return ProviderTimedOut("The provider did not answer in time.")
    return ProviderFailed(f"The provider failed (status {status}).")


def _seconds(retry_after: str | None) -> int | None:
    try:
        return max(1, math.ceil(float(retry_after or "")))
    except (ValueError, OverflowError):
        return None


def _events(response: httpx2.Response) -> Iterator[bytes]:
    """The data of each server-sent event; comments and other fields are passed over."""
    rest = b""
    for part in response.iter_bytes():
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                yield line[5:].strip()


def _response_class() -> type[httpx2.Response]:
    import httpx2

    return httpx2.Response
