"""The small local model of development: a server of OpenAI's protocol that may still be loading."""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import replace
from typing import Any

import gevent

from webapp.base_url import BaseURL
from webapp.llm.messages import ModelRequest, Operation
from webapp.local_model import LABEL, MODEL, Address
from webapp.providers.openai import OpenAIProvider

MAX_LOADING = 10.0  # seconds after the start, for which the first requests wait
LOADING_CHECK_INTERVAL = 0.1  # seconds
NO_EMBEDDINGS = (
    "The small local model has no embeddings. Set OPENAI_API_KEY, or OPENAI_BASE_URL for a server "
    "that has them, and restart Weir."
)


class LocalProvider(OpenAIProvider):
    """Answers with its one model, whatever model a request names."""

    kind = "local"
    operations: frozenset[Operation] = frozenset({"chat/completions"})

    def __init__(self, address: Address, timeout: float) -> None:
        super().__init__(
            "local", api_key=address.api_key, address=BaseURL(address.base_url), timeout=timeout
        )
        # Its port differs at each start.
        self.identity = f"local {MODEL}"
        self._loaded = False
        self._wait_until = time.monotonic() + MAX_LOADING

    def default_model(self) -> str:
        return MODEL

    def refusal(self, operation: Operation) -> str | None:
        return super().refusal(operation) and NO_EMBEDDINGS

    def _prepare(self, model: str) -> None:
        while not self._loaded and time.monotonic() < self._wait_until:
            try:
                self._list_models()
                self._loaded = True
            except Exception as error:
                if self._translate(error) is None:
                    raise
                gevent.sleep(LOADING_CHECK_INTERVAL)

    def _complete(self, request: ModelRequest, model: str) -> str:
        return super()._complete(_at_its_own_temperature(request), model)

    def _events(self, request: ModelRequest, model: str) -> Generator[str]:
        return super()._events(_at_its_own_temperature(request), model)

    def _list_models(self) -> list[dict[str, Any]]:
        return [{**listed, "owned_by": f"weir: {LABEL}"} for listed in super()._list_models()]

    def _body(self, request: ModelRequest, model: str) -> dict[str, Any]:
        return super()._body(request, MODEL)


def _at_its_own_temperature(request: ModelRequest) -> ModelRequest:
    """The request without the temperature that Weir adds: too high for so small a model."""
    if "temperature" not in request.defaults:
        return request
    body = {name: value for name, value in request.body.items() if name != "temperature"}
    return replace(request, body=body, defaults=request.defaults - {"temperature"})
