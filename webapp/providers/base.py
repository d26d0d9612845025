"""What all providers share: timeouts, the parsing of answers, and the outcome of the last call.

Providers return JSON text in the format of the request's operation, which is parsed here.
"""

from __future__ import annotations

import re
import time
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import gevent
from gevent.lock import BoundedSemaphore

from webapp.base_url import BaseURL
from webapp.errors import NotFound, ProviderError, ProviderTimedOut, WeirError
from webapp.llm.calls import Outcome
from webapp.llm.messages import Answer, Chunk, ModelRequest, Operation
from webapp.llm.stream_usage import StreamUsage
from webapp.observability.masking import mask
from webapp.providers.answers import StreamReader, malformed_as_provider_failed, read_answer
from webapp.providers.gap_timeout import with_gap_timeout
from webapp.providers.http import ReportedInStream
from webapp.providers.message_answers import MessageReader, read_message
from webapp.providers.remaining_limits import LimitReadings
from webapp.providers.response_answers import ResponseReader, read_response
from webapp.providers.translation import StreamWriter, can_answer, translation_for

SLOW = "The provider timed out."
MAX_MESSAGE_LENGTH = 1_000  # characters of what a provider says
MIN_PRIVATE_LENGTH = 4
# What reads the answers of an operation, whole and as a stream; all others are OpenAI's.
READERS: dict[Operation, tuple[Any, Any]] = {
    "messages": (read_message, MessageReader),
    "responses": (read_response, ResponseReader),
}
OPENAIS_READERS = read_answer, StreamReader
MAX_END_WAIT = 0.5  # seconds
LISTING_TIMEOUT = 5.0
LISTING_TTL = 300.0
LISTING_RETRY_DELAY = 5.0


Reader = StreamReader | MessageReader | ResponseReader


class NotServed(Exception):
    """The server seems to have no such operation. It is certain once another one answers."""


class BaseProvider(ABC):
    """Applies timeouts, translates errors and records outcomes for all providers.

    `timeout` (seconds) limits a plain call; of a stream, the wait for each chunk.
    """

    kind: str
    identity: str
    max_input_tokens: int | None
    openai_family = False
    operations: frozenset[Operation] = frozenset({"chat/completions", "embeddings"})
    """The formats that it speaks; requests of others are translated."""
    has_free_call = True
    """Whether its models are listed by a call, which costs nothing and shows whether it answers."""
    _api_key = ""
    _address = BaseURL()

    def __init__(self, name: str, timeout: float) -> None:
        self.name = name
        self._timeout = timeout
        self._listing = BoundedSemaphore()
        self._listed: tuple[list[dict[str, Any]], float] = ([], -LISTING_TTL)
        self.latest: Outcome | None = None
        self.limits = LimitReadings()
        self._private_texts: set[str] = set()
        self._private: re.Pattern[str] | None = None

    def use_key(self, api_key: str) -> None:  # noqa: B027 a provider without a key needs nothing
        """Send another API key with the next call. A running one goes on."""

    def _keep_private(self, api_key: str, address: BaseURL) -> None:
        """Keep what errors must not show: each key that was in use, and who is called if that is
        not the maker."""
        parts = urlsplit(address.url)
        values = [value for _, value in parse_qsl(address.query)]
        texts = {api_key, *address.secrets, parts.netloc, parts.hostname or "", *values}
        self._private_texts |= {text for text in texts if len(text) >= MIN_PRIVATE_LENGTH}
        found = sorted(self._private_texts, key=len)
        if found:
            self._private = re.compile("|".join(map(re.escape, reversed(found))), re.IGNORECASE)

    @property
    def base_url(self) -> str:
        """Where its calls go, without user, password and query; "" if only a library knows."""
        return self._address.url

    @property
    def masked_key(self) -> str | None:
        """The mask of the API key in use; None if it has no key."""
        return mask(self._api_key) if self._api_key else None

    @property
    def has_password(self) -> bool:
        """Whether its base URL has a user and a password, which are sent instead of a key."""
        return bool(self._address.user_info)

    @abstractmethod
    def _complete(self, request: ModelRequest, model: str) -> str:
        """The whole answer, as JSON text."""

    @abstractmethod
    def _events(self, request: ModelRequest, model: str) -> Generator[str]:
        """The chunks of a stream, each as JSON text, and `[DONE]` if the provider sends it.

        Usage is requested, and arrives with a chunk.
        """

    def operations_of(self, model: str) -> frozenset[Operation]:
        """The formats that it speaks with this model, as far as is known."""
        return self.operations

    def refusal(self, operation: Operation) -> str | None:
        """Why it can answer no request of this operation; None if it can."""
        if can_answer(operation, self.operations):
            return None
        return f"The provider of this model does not support {operation}."

    def _remember_not_served(self, model: str) -> None:  # noqa: B027 most know what they speak
        """Called when another operation has answered after NotServed."""

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
        with self._recording():
            self._prepare(model)
            with suppress(NotServed):
                return self._answered(request, model, self.operations_of(model))
            answer = self._answered(request, model, self.operations - {request.operation})
            self._remember_not_served(model)
        return answer

    def _answered(self, request: ModelRequest, model: str, spoken: frozenset[Operation]) -> Answer:
        translation = translation_for(request, spoken)
        asked = translation.request(request, model) if translation else request
        with gevent.Timeout(self._timeout, self._slow()):
            text = self._complete(asked, model)
        read, _ = READERS.get(asked.operation, OPENAIS_READERS)
        answer: Answer = read(text, asked, model, self.name)
        if translation is None:
            return answer
        with malformed_as_provider_failed:
            return replace(answer, body=translation.answer(answer, request, model))

    def stream(
        self, request: ModelRequest, model: str, stream_usage: StreamUsage
    ) -> Generator[Chunk | Answer]:
        with self._recording():
            self._prepare(model)
            answer = None
            with suppress(NotServed):
                spoken = self.operations_of(model)
                answer = yield from self._streamed(request, model, stream_usage, spoken)
            if answer is None:
                spoken = self.operations - {request.operation}
                answer = yield from self._streamed(request, model, stream_usage, spoken)
                self._remember_not_served(model)
        yield answer

    def _streamed(
        self,
        request: ModelRequest,
        model: str,
        stream_usage: StreamUsage,
        spoken: frozenset[Operation],
    ) -> Generator[Chunk, None, Answer]:
        translation = translation_for(request, spoken)
        asked = translation.request(request, model) if translation else request
        _, reading = READERS.get(asked.operation, OPENAIS_READERS)
        reader = reading(asked, model, self.name, stream_usage)
        # A native endpoint only takes the text.
        writer = None
        if translation and not request.native:
            writer = translation.writer(request, model)
        events = with_gap_timeout(self._events(asked, model), self._timeout, self._slow())
        with closing(events):
            said_done = False
            while (data := self._next(events, reader)) is not None:
                if said_done := data == "[DONE]":
                    break
                for chunk in reader.read(data):
                    yield from _written(chunk, writer) if writer else (chunk,)
        reader.end(said_done=said_done)
        answer: Answer = reader.answer()
        if writer:
            with malformed_as_provider_failed:
                last = writer.end(answer.usage)
            yield from (Chunk(data, "") for data in last)
        return answer

    def stored_response(self, method: str, path: str) -> str:
        """What a free call below `/responses` answers, as JSON text.

        Raises NotFound where the provider does not keep that response (any more).
        """
        raise NotFound

    def count_tokens(self, request: ModelRequest, model: str) -> str | None:
        """The tokens of a request, by a call that costs nothing; None where there is none."""
        return None

    def models(self) -> list[dict[str, Any]]:
        """The cached list. One request at a time refreshes it; on failure the old list stays."""
        if not self._listing_is_fresh():
            with self._listing:
                if not self._listing_is_fresh():
                    self._listed = (self._refreshed_list(), time.monotonic())
        return self._listed[0]

    def check(self, timeout: float) -> int:
        """A free call that shows whether the provider is available. Raises ProviderError.

        Returns how many models it lists.
        """
        with self._recording(), gevent.Timeout(timeout, ProviderTimedOut(SLOW)):
            return len(self._list_models())

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

    def _next(self, events: Generator[str], reader: Reader) -> str | None:
        """The next event, or None at the end: also if the stream breaks after its last choice."""
        try:
            if isinstance(reader, ResponseReader) and reader.is_whole:
                # Nothing follows, but a connection that is read to its end can be used again.
                with gevent.Timeout(MAX_END_WAIT, False):
                    return next(events, None)
                return None
            return next(events, None)
        except (ReportedInStream, NotServed):
            raise
        except Exception:
            if reader.is_whole:
                return None
            raise

    def _slow(self) -> ProviderTimedOut:
        return ProviderTimedOut(f"The provider did not answer within {self._timeout:g} s.")

    def _succeeded(self) -> None:
        self.latest = Outcome(time.monotonic(), None)

    @contextmanager
    def _recording(self) -> Iterator[None]:
        """Record the outcome of a call, and raise the error that its failure means."""
        try:
            yield
        except Exception as error:
            recorded = self._recorded(error)
            if recorded is error:
                raise  # from itself, it would refer to itself
            raise recorded from error
        self._succeeded()

    def _recorded(self, error: Exception) -> Exception:
        """Record a failure, and return the error to raise; an unexpected one becomes a 500."""
        translated = error if isinstance(error, WeirError) else self._translate(error)
        # A client's mistake is not a failure of the provider, nor is a connection it had closed.
        at_fault = (
            isinstance(translated, ProviderError)
            and translated.status >= 500
            and translated.lost_send_seconds is None
        )
        name = translated.name if translated and at_fault else None
        self.latest = Outcome(time.monotonic(), name)
        if translated:
            translated.message = self._masked(translated.message)[:MAX_MESSAGE_LENGTH]
            translated.details = self._masked_details(translated.details)
            if translated.provider_message:
                translated.provider_message = self._masked(translated.provider_message)
        return translated or error

    def _masked(self, text: str) -> str:
        return self._private.sub("***", text) if self._private else text

    def _masked_details(self, details: Any) -> Any:
        if isinstance(details, str):
            return self._masked(details)[:MAX_MESSAGE_LENGTH]
        if isinstance(details, Mapping):
            return {name: self._masked_details(value) for name, value in details.items()}
        return details


def _written(chunk: Chunk, writer: StreamWriter) -> Iterator[Chunk]:
    """A chunk in the client's format. Its text belongs to the first that it becomes."""
    with malformed_as_provider_failed:
        written = writer.take(chunk.data)
    for place, data in enumerate(written):
        yield Chunk(data, "" if place else chunk.text, chunk.begins)
