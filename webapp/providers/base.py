"""What all providers share: bounds on time, the reading of answers, and what happened lately.

A provider gives texts in the shape of OpenAI's API; here they are read, once for all.
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
from webapp.llm.messages import Answer, Chunk, ModelRequest, Usage
from webapp.llm.stream_usage import StreamUsage
from webapp.providers.counting import count
from webapp.providers.gap_timeout import with_gap_timeout

CUT = "The provider's stream ended early."
SLOW = "The provider timed out."
LISTING_TIMEOUT = 5.0
LISTING_TTL = 300.0
LISTING_RETRY_DELAY = 5.0
MAX_TOKEN_COUNT = 1_000_000_000  # in one call; what says more is no count
# Of a delta, what no model has written.
NO_TOKENS = frozenset({"role", "id", "type"})
MALFORMED_ERRORS = (ValueError, LookupError, TypeError, AttributeError, RecursionError)


class BaseProvider(ABC):
    """A provider does only what is its own; times, errors and outcomes are recorded here once.

    `timeout` (seconds) bounds a plain call; of a stream, its first piece and each gap.
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
        """The chunks of a stream, each as JSON text, and `[DONE]` where the provider says so.

        Usage is asked for, and comes with a chunk.
        """

    def _prepare(self, model: str) -> None:  # noqa: B027 most need nothing
        """What the first call of a model needs and no timeout of a call should bound."""

    @abstractmethod
    def _list_models(self) -> list[dict[str, Any]]:
        """The models as OpenAI lists them (`id`, …), by a call that costs nothing."""

    @abstractmethod
    def _translate(self, error: Exception) -> WeirError | None:
        """The WeirError that an exception of the client below stands for; None for any other."""

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
            raise self._known(error) from error
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
            raise self._known(error) from error
        self._succeeded()
        yield answer

    def models(self) -> list[dict[str, Any]]:
        """Asked again now and then, by one; while it fails, the last known ones."""
        if not self._listing_is_fresh():
            with self._listing:
                if not self._listing_is_fresh():
                    self._listed = (self._newly_listed(), time.monotonic())
        return self._listed[0]

    def check(self, timeout: float) -> None:
        """A free call that shows whether the provider is there. Raises ProviderError."""
        try:
            with gevent.Timeout(timeout, ProviderTimedOut(SLOW)):
                self._list_models()
        except Exception as error:
            raise self._known(error) from error
        self._succeeded()

    def _listing_is_fresh(self) -> bool:
        models, listed_at = self._listed
        return time.monotonic() - listed_at < (LISTING_TTL if models else LISTING_RETRY_DELAY)

    def _newly_listed(self) -> list[dict[str, Any]]:
        try:
            with gevent.Timeout(LISTING_TIMEOUT, ProviderTimedOut(SLOW)):
                return self._list_models()
        except Exception as error:
            if not isinstance(self._known(error), WeirError):
                raise
            return self._listed[0]

    def _read(self, text: str, request: ModelRequest, model: str) -> Answer:
        body = json_codec.loads(text)
        if request.operation == "embeddings":
            body["data"][0]["embedding"]
            content = ""
        else:
            content = _text(body["choices"][0]["message"]["content"])
        usage = _usage(body.get("usage"), request, model, content)
        said = str(body.get("model") or model)
        return Answer(content, said, self.name, usage, body=text)

    def _slow(self) -> ProviderTimedOut:
        return ProviderTimedOut(f"The provider did not answer within {self._timeout:g} s.")

    def _succeeded(self) -> None:
        self.latest = Outcome(time.monotonic(), None)

    def _known(self, error: Exception) -> Exception:
        """The error to raise; one that nobody foresaw stays as it is, and becomes a 500."""
        known = error if isinstance(error, WeirError) else self._translate(error)
        # What the caller got wrong says nothing against the provider.
        at_fault = isinstance(known, ProviderError) and known.status >= 500
        self.latest = Outcome(time.monotonic(), known.name if known and at_fault else None)
        return known or error


class _StreamReading:
    """What the chunks of a stream have said so far."""

    def __init__(self, request: ModelRequest, stream_usage: StreamUsage) -> None:
        self._request = request
        self._stream_usage = stream_usage
        self._texts: list[str] = []
        self._model: str | None = None
        self._usage: Any = None
        self.finished = False

    def read_chunk(self, data: str) -> Chunk | None:
        """The piece in a chunk; None of one that is only there because Weir asked for usage."""
        chunk = json_codec.loads(data)
        if chunk.get("error"):
            raise ProviderFailed("The provider reported an error in its stream.")
        choices = chunk["choices"]
        done, begins, text, written = False, False, "", ""
        for choice in choices:
            delta = choice.get("delta") or {}
            done = done or bool(choice.get("finish_reason"))
            begins = begins or done or any(v for k, v in delta.items() if k != "role")
            written += _all_text(delta)
            if choice.get("index", 0) == 0:
                text += _text(delta.get("content"))
        self._stream_usage.count(written)
        self._model = chunk.get("model") or self._model
        self.finished = self.finished or done
        usage = chunk.get("usage")
        if usage:
            self._usage = usage
            if done or not choices:
                self._stream_usage.usage = _usage(usage, self._request, "", "")
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
        usage = _usage(self._usage, self._request, model, content)
        said = str(self._model or model)
        return Answer(content, said, provider.name, usage)


def _without_usage(data: str) -> str:
    # Not by json_codec, which may change a number; this is passed on.
    chunk = json.loads(data)
    del chunk["usage"]
    return json.dumps(chunk)


def _all_text(value: Any) -> str:
    """Everything in a delta that may have cost tokens: content, reasoning, arguments of tools."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        return "".join(_all_text(one) for name, one in value.items() if name not in NO_TOKENS)
    return "".join(map(_all_text, value)) if isinstance(value, list) else ""


def _text(content: Any) -> str:
    return content if isinstance(content, str) else ""


def _usage(usage: Any, request: ModelRequest, model: str, content: str) -> Usage:
    if isinstance(usage, dict):
        details = usage.get("prompt_tokens_details")
        cached = details.get("cached_tokens") if isinstance(details, dict) else None
        told = [usage.get("prompt_tokens"), usage.get("completion_tokens") or 0, cached or 0]
        counts = [one for one in told if type(one) is int and 0 <= one < MAX_TOKEN_COUNT]
        if len(counts) == len(told):
            return Usage(counts[0], counts[1], min(counts[2], counts[0]))
    return count(request, model, content)


class _MalformedAsProviderFailed:
    """Around all that reads what a provider sent: anything may be in there."""

    def __enter__(self) -> None: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: object
    ) -> None:
        if isinstance(error, MALFORMED_ERRORS):
            raise ProviderFailed("The provider's answer does not match OpenAI's schema.") from None


# One for all, as it is entered with every chunk.
malformed_as_provider_failed = _MalformedAsProviderFailed()
