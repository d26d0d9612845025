"""What all providers share: timeouts, the parsing of answers, and the outcome of the last call.

Providers return JSON text in the format of OpenAI's API, which is parsed here.
"""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Generator
from contextlib import closing
from typing import Any

import gevent
from gevent.lock import BoundedSemaphore

from webapp import json_codec
from webapp.errors import ProviderError, ProviderFailed, ProviderTimedOut, WeirError
from webapp.llm.calls import Outcome
from webapp.llm.messages import Answer, Chunk, ModelRequest
from webapp.llm.stream_usage import StreamUsage
from webapp.providers.gap_timeout import with_gap_timeout
from webapp.providers.usage import generated_text, read_usage

CUT = "The provider's stream ended early."
SLOW = "The provider timed out."
LISTING_TIMEOUT = 5.0
LISTING_TTL = 300.0
LISTING_RETRY_DELAY = 5.0
MALFORMED_ERRORS = (ValueError, LookupError, TypeError, AttributeError, RecursionError)


class BaseProvider(ABC):
    """Applies timeouts, translates errors and records outcomes for all providers.

    `timeout` (seconds) limits a plain call; of a stream, the wait for each chunk.
    """

    kind: str
    identity: str
    max_input_tokens: int | None
    openai_family = False

    def __init__(self, name: str, timeout: float) -> None:
        self.name = name
        self._timeout = timeout
        self._listing = BoundedSemaphore()
        self._listed: tuple[list[dict[str, Any]], float] = ([], -LISTING_TTL)
        self.latest: Outcome | None = None

    @abstractmethod
    def _complete(self, request: ModelRequest, model: str) -> str:
        """The whole answer, as JSON text."""

    @abstractmethod
    def _events(self, request: ModelRequest, model: str) -> Generator[str]:
        """The chunks of a stream, each as JSON text, and `[DONE]` if the provider sends it.

        Usage is requested, and arrives with a chunk.
        """

    def _prepare(self, model: str) -> None:  # noqa: B027 most need nothing
        """Set-up for the first call of a model, outside the call's timeout."""

    @abstractmethod
    def _list_models(self) -> list[dict[str, Any]]:
        """The models in OpenAI's format (`id`, …), by a call that costs nothing."""

    @abstractmethod
    def _translate(self, error: Exception) -> WeirError | None:
        """The WeirError for an exception of the underlying client; None for any other."""

    def default_model(self) -> str | None:
        """The first model that it lists."""
        listed = self.models()
        return str(listed[0]["id"]) if listed else None

    def answer(self, request: ModelRequest, model: str) -> Answer:
        try:
            self._prepare(model)
            with gevent.Timeout(self._timeout, self._slow()):
                text = self._complete(request, model)
            with malformed_as_provider_failed:
                answer = self._read(text, request, model)
        except Exception as error:
            raise self._recorded(error) from error
        self._succeeded()
        return answer

    def stream(
        self, request: ModelRequest, model: str, stream_usage: StreamUsage
    ) -> Generator[Chunk | Answer]:
        reading = _StreamReading(request, stream_usage)
        try:
            self._prepare(model)
            events = with_gap_timeout(self._events(request, model), self._timeout, self._slow())
            with closing(events):
                for data in events:
                    if data == "[DONE]":
                        break
                    with malformed_as_provider_failed:
                        chunk = reading.read_chunk(data)
                    if chunk:
                        yield chunk
                else:
                    if not reading.finished:
                        raise ProviderFailed(CUT)
            with malformed_as_provider_failed:
                answer = reading.answer(self, model)
        except Exception as error:
            raise self._recorded(error) from error
        self._succeeded()
        yield answer

    def models(self) -> list[dict[str, Any]]:
        """The cached list. One request at a time refreshes it; on failure the old list stays."""
        if not self._listing_is_fresh():
            with self._listing:
                if not self._listing_is_fresh():
                    self._listed = (self._refreshed_list(), time.monotonic())
        return self._listed[0]

    def check(self, timeout: float) -> None:
        """A free call that shows whether the provider is available. Raises ProviderError."""
        try:
            with gevent.Timeout(timeout, ProviderTimedOut(SLOW)):
                self._list_models()
        except Exception as error:
            raise self._recorded(error) from error
        self._succeeded()

    def _listing_is_fresh(self) -> bool:
        models, listed_at = self._listed
        return time.monotonic() - listed_at < (LISTING_TTL if models else LISTING_RETRY_DELAY)

    def _refreshed_list(self) -> list[dict[str, Any]]:
        try:
            with gevent.Timeout(LISTING_TIMEOUT, ProviderTimedOut(SLOW)):
                return self._list_models()
        except Exception as error:
            if not isinstance(self._recorded(error), WeirError):
                raise
            return self._listed[0]

    def _read(self, text: str, request: ModelRequest, model: str) -> Answer:
        body = json_codec.loads(text)
        if request.operation == "embeddings":
            body["data"][0]["embedding"]
            content, generated = "", ""
        else:
            messages = [choice["message"] for choice in body["choices"]]
            content = _text(messages[0]["content"])
            generated = " ".join(map(generated_text, messages))
        tier = body.get("service_tier")
        usage = read_usage(body.get("usage"), request, model, generated, tier)
        return Answer(content, str(body.get("model") or model), self.name, usage, body=text)

    def _slow(self) -> ProviderTimedOut:
        return ProviderTimedOut(f"The provider did not answer within {self._timeout:g} s.")

    def _succeeded(self) -> None:
        self.latest = Outcome(time.monotonic(), None)

    def _recorded(self, error: Exception) -> Exception:
        """Record a failure, and return the error to raise; an unexpected one becomes a 500."""
        translated = error if isinstance(error, WeirError) else self._translate(error)
        # A client's mistake is not a failure of the provider.
        at_fault = isinstance(translated, ProviderError) and translated.status >= 500
        name = translated.name if translated and at_fault else None
        self.latest = Outcome(time.monotonic(), name)
        return translated or error


class _StreamReading:
    """The text and usage of a stream's chunks so far."""

    def __init__(self, request: ModelRequest, stream_usage: StreamUsage) -> None:
        self._request = request
        self._stream_usage = stream_usage
        self._texts: list[str] = []
        self._model: str | None = None
        self._usage: Any = None
        self._generated: list[str] = []
        self._tier: Any = None
        self.finished = False

    def read_chunk(self, data: str) -> Chunk | None:
        """Parse a chunk; None if it has nothing for the client, such as usage only Weir wanted."""
        chunk = json_codec.loads(data)
        if chunk.get("error"):
            raise ProviderFailed("The provider reported an error in its stream.")
        choices = chunk["choices"]
        done, begins, text, written = False, False, "", ""
        for choice in choices:
            delta = choice.get("delta") or {}
            done = done or bool(choice.get("finish_reason"))
            begins = begins or done or any(v for k, v in delta.items() if k != "role")
            written += generated_text(delta)
            if choice.get("index", 0) == 0:
                text += _text(delta.get("content"))
        self._stream_usage.count(written)
        self._generated.append(written)
        self._tier = chunk.get("service_tier") or self._tier
        self._model = chunk.get("model") or self._model
        self.finished = self.finished or done
        usage = chunk.get("usage")
        if usage:
            self._usage = usage
            if done or not choices:
                self._stream_usage.usage = read_usage(usage, self._request, "", "", self._tier)
        if text:
            self._texts.append(text)
        if self._request.native:
            return Chunk("", text) if text else None
        if "usage" in chunk and not self._request.usage_wanted:
            if usage and not choices:
                return None
            data = _without_usage(data)
        return Chunk(data, text, begins)

    def answer(self, provider: BaseProvider, model: str) -> Answer:
        content = "".join(self._texts)
        generated = "".join(self._generated)
        usage = read_usage(self._usage, self._request, model, generated, self._tier)
        return Answer(content, str(self._model or model), provider.name, usage)


def _without_usage(data: str) -> str:
    # Not json_codec, which may change numbers: this is passed on to the client.
    chunk = json.loads(data)
    del chunk["usage"]
    return json.dumps(chunk)


def _text(content: Any) -> str:
    return content if isinstance(content, str) else ""


class _MalformedAsProviderFailed:
    """Wraps code that parses a provider's answer, which may hold anything."""

    def __enter__(self) -> None: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: object
    ) -> None:
        if isinstance(error, MALFORMED_ERRORS):
            raise ProviderFailed("The provider's answer does not match OpenAI's schema.") from None


# A single instance, as it is entered for every chunk.
malformed_as_provider_failed = _MalformedAsProviderFailed()
