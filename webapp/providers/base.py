"""What all providers share: bounds on time, one translation of errors, and what happened lately."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator

import gevent

from webapp.errors import ProviderError, ProviderFailed, ProviderTimedOut, WeirError
from webapp.llm.messages import Answer, ChatRequest
from webapp.llm.ports import Outcome


class BaseProvider(ABC):
    """A provider does only what is its own; times, errors and outcomes are recorded here once.

    `timeout` (seconds) bounds a plain call; of a stream, its first piece and each gap.
    """

    name: str
    identity: str
    piece_tokens: int | None

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self.latest: Outcome | None = None

    @abstractmethod
    def _answer(self, request: ChatRequest, model: str) -> Answer: ...

    @abstractmethod
    def _stream(self, request: ChatRequest, model: str) -> Iterator[str | Answer]: ...

    @abstractmethod
    def _list_models(self) -> list[str]:
        """The models, by a call that costs nothing."""

    @abstractmethod
    def _translate(self, error: Exception) -> WeirError | None:
        """The WeirError that an exception of the SDK below stands for; None for any other."""

    def default_model(self) -> str | None:
        return None

    def answer(self, request: ChatRequest, model: str) -> Answer:
        try:
            with self._bounded():
                answer = self._answer(request, model)
        except Exception as error:
            raise self._known(error) from error
        self._succeeded()
        return answer

    def stream(self, request: ChatRequest, model: str) -> Iterator[str | Answer]:
        pieces = self._stream(request, model)
        try:
            while True:
                with self._bounded():
                    piece = next(pieces, None)
                if piece is None:
                    raise ProviderFailed("The provider's stream was cut before its end.")
                yield piece
                if isinstance(piece, Answer):
                    break
        except Exception as error:
            raise self._known(error) from error
        finally:
            close = getattr(pieces, "close", None)
            if close:
                close()
        self._succeeded()

    def check(self, timeout: float) -> None:
        """A free call that shows whether the provider is there. Raises ProviderError."""
        try:
            with gevent.Timeout(timeout, ProviderTimedOut("The provider did not answer in time.")):
                self._list_models()
        except Exception as error:
            raise self._known(error) from error
        self._succeeded()

    def _bounded(self) -> gevent.Timeout:
        message = f"The provider did not answer within {self._timeout:g} s."
        return gevent.Timeout(self._timeout, ProviderTimedOut(message))

    def _succeeded(self) -> None:
        self.latest = Outcome(time.monotonic(), None)

    def _known(self, error: Exception) -> Exception:
        """The error to raise; one that nobody foresaw stays as it is, and becomes a 500."""
        known = error if isinstance(error, WeirError) else self._translate(error)
        # What the caller got wrong says nothing against the provider.
        at_fault = isinstance(known, ProviderError) and known.status >= 500
        self.latest = Outcome(time.monotonic(), known.name if known and at_fault else None)
        return known or error
