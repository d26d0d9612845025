"""Anthropic, and all other servers of its Messages API.

Requests of that format and their answers are passed on unchanged, with all their fields.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from datetime import datetime
from functools import cached_property, partial
from itertools import count
from typing import Any
from urllib.parse import parse_qsl

import gevent

from webapp import json_codec
from webapp.base_url import BaseURL
from webapp.errors import ModelNotFound, ProviderTimedOut, WeirError
from webapp.llm.messages import Answer, ModelRequest, Usage
from webapp.providers.answers import malformed_as_provider_failed
from webapp.providers.base import SLOW, BaseProvider
from webapp.providers.failures import translate_failure
from webapp.providers.http import Endpoint, RefusedByStatus, ReportedInStream
from webapp.providers.message_answers import message_error
from webapp.providers.parameters import MAX_CALLS, Adaptations, Added
from webapp.providers.translation import translation_for
from webapp.providers.translation.chat_over_messages.answer import to_chat_answer

OFFICIAL_URL = "https://api.anthropic.com"
# The version that also takes temperature and top_p, from those models that have them.
VERSION = "2023-06-01"
COUNT_TIMEOUT = 10.0  # seconds
# What servers answer that do not count tokens.
NOT_SERVED = {404, 405, 501}
CLAUDE = "claude"
PASSED_ON = ("anthropic-version", "anthropic-beta")


class AnthropicProvider(BaseProvider):
    """One server of Anthropic's API; an empty `address` means Anthropic itself."""

    kind = "anthropic"
    operations = frozenset({"messages"})

    def __init__(self, name: str, *, api_key: str, address: BaseURL, timeout: float) -> None:
        super().__init__(name, timeout)
        self._api_key = api_key
        self._address = address
        self.max_input_tokens = 100_000
        self.identity = f"anthropic@{address.url}?{address.query}".rstrip("?")
        self._adaptations = Adaptations()
        self._keep_private(api_key, address)

    @property
    def base_url(self) -> str:
        return self._address.url or OFFICIAL_URL

    @cached_property
    def _endpoint(self) -> Endpoint:
        return Endpoint(self.base_url, self._headers(), self._timeout, self._address.query)

    def _headers(self) -> dict[str, str]:
        headers = {"anthropic-version": VERSION}
        if self._api_key:
            headers["x-api-key"] = self._api_key
        if self._address.authorization:
            headers["Authorization"] = self._address.authorization
        return headers

    def use_key(self, api_key: str) -> None:
        self._keep_private(api_key, self._address)
        self._api_key = api_key
        self._endpoint.headers = self._headers()
        self.latest = None

    @property
    def connection(self) -> tuple[str, str, dict[str, str], dict[str, str]]:
        """Base URL, key, headers and query of its calls, for clients of its other endpoints."""
        query = dict(parse_qsl(self._address.query, keep_blank_values=True))
        return self._address.url or OFFICIAL_URL, self._api_key, self._headers(), query

    def parameters(self, request: ModelRequest, model: str) -> dict[str, Any]:
        """The body of a request that is not streamed. Raises WeirError."""
        translation = translation_for(request, self.operations)
        asked = translation.request(request, model) if translation else request
        return _body(asked, model) | self._adaptations.apply(model, _added(asked))

    def written(self, text: str, model: str) -> str:
        """A chat completion of a message of Anthropic's, both as JSON text. Raises WeirError."""
        with malformed_as_provider_failed:
            return to_chat_answer(Answer("", model, self.name, Usage(0, 0), body=text), model)

    def _complete(self, request: ModelRequest, model: str) -> str:
        note, headers = partial(self.limits.note, model), _passed_on(request)
        added = _added(request)
        for calls in count(1):
            sent = self._adaptations.apply(model, added)
            try:
                return self._endpoint.post(
                    "/v1/messages", _body(request, model) | sent, note, headers
                )
            except RefusedByStatus as refusal:
                if not self._may_adapt(refusal, model, added, sent, calls):
                    raise
        raise AssertionError

    def _events(self, request: ModelRequest, model: str) -> Generator[str]:
        note, headers = partial(self.limits.note, model), _passed_on(request)
        added = _added(request)
        for calls in count(1):
            sent = self._adaptations.apply(model, added)
            body = _body(request, model) | sent | {"stream": True}
            try:
                yield from self._endpoint.stream("/v1/messages", body, note, headers)
                return
            except RefusedByStatus as refusal:
                if not self._may_adapt(refusal, model, added, sent, calls):
                    raise

    def count_tokens(self, request: ModelRequest, model: str) -> str | None:
        note, headers = partial(self.limits.note, model), _passed_on(request)
        body = _body(request, model)
        seconds = min(self._timeout, COUNT_TIMEOUT)
        with self._recording():
            try:
                with gevent.Timeout(seconds, ProviderTimedOut(SLOW)):
                    text = self._endpoint.post("/v1/messages/count_tokens", body, note, headers)
            except RefusedByStatus as refusal:
                if refusal.status in NOT_SERVED and not _is_missing_model(refusal):
                    return None  # a server that has only the rest of the API
                raise
            with malformed_as_provider_failed:
                if type(json_codec.loads(text)["input_tokens"]) is not int:
                    raise ValueError("no count")
            return text

    def _may_adapt(
        self, refusal: RefusedByStatus, model: str, added: Added, sent: dict[str, Any], calls: int
    ) -> bool:
        """Whether to call again without a parameter that the client did not choose."""
        return calls < MAX_CALLS and self._adaptations.learn(
            model, added, sent, refusal.status, refusal.body
        )

    def _list_models(self) -> list[dict[str, Any]]:
        listed = self._endpoint.get("/v1/models?limit=1000")
        if not isinstance(listed, dict) or not isinstance(listed.get("data"), list):
            raise ValueError("no list of models")
        return [
            _listed(model)
            for model in listed["data"]
            if isinstance(model, dict)
            and isinstance(model.get("id"), str)
            and model.get("lifecycle") != "retired"
        ]

    def _translate(self, error: Exception) -> WeirError | None:
        if isinstance(error, RefusedByStatus):
            return message_error(error.body, error.status, error.retry_after)
        if isinstance(error, ReportedInStream):
            return message_error(error.body)
        return translate_failure(error)


def _is_missing_model(refusal: RefusedByStatus) -> bool:
    return isinstance(message_error(refusal.body, refusal.status), ModelNotFound)


def _passed_on(request: ModelRequest) -> dict[str, str]:
    return {name: request.headers[name] for name in PASSED_ON if name in request.headers}


def _body(request: ModelRequest, model: str) -> dict[str, Any]:
    body = {"model": model, **request.body}
    if request.native:
        body.pop("temperature", None)
    # Other models do not sign what they think, and may want it back.
    if CLAUDE in model.lower() and isinstance(messages := body.get("messages"), list):
        body["messages"] = _without_unsigned_thinking(messages)
    return body


def _without_unsigned_thinking(messages: list[Any]) -> list[Any]:
    """The messages without thinking of other makers' models (translation/messages_over_chat).

    Nobody signed it, and a Claude refuses such a request.
    """
    if not any(_is_unsigned(block) for message in messages for block in _blocks(message)):
        return messages
    kept = []
    for message in messages:
        blocks = [block for block in _blocks(message) if not _is_unsigned(block)]
        if blocks and len(blocks) < len(_blocks(message)):
            kept.append({**message, "content": blocks})
        elif blocks or not _blocks(message):
            kept.append(message)
    return kept


def _blocks(message: Any) -> list[Any]:
    content = message.get("content") if isinstance(message, dict) else None
    return content if isinstance(content, list) else []


def _is_unsigned(block: Any) -> bool:
    is_thinking = isinstance(block, dict) and block.get("type") == "thinking"
    return is_thinking and block.get("signature") == ""


def _added(request: ModelRequest) -> Added:
    """What a native endpoint sends and newer models refuse."""
    if not request.native or "temperature" not in request.body:
        return Added({})
    temperature = {"temperature": request.body["temperature"]}
    return Added(temperature, frozenset({"temperature"} - request.defaults))


def _listed(model: dict[str, Any]) -> dict[str, Any]:
    """A model of Anthropic's list in OpenAI's format."""
    created = 0
    # Another server's date must not hide its models.
    with contextlib.suppress(TypeError, ValueError, OverflowError):
        created = int(datetime.fromisoformat(model.get("created_at")).timestamp())  # type: ignore[arg-type]
    known = {
        "display_name": model.get("display_name"),
        "max_input_tokens": model.get("max_input_tokens"),
        "max_output_tokens": model.get("max_tokens"),
    }
    listed = {"id": model["id"], "object": "model", "created": created, "owned_by": "anthropic"}
    return listed | {name: value for name, value in known.items() if value}
