"""OpenAI, Azure OpenAI, and all other servers of OpenAI's protocol.

Requests and answers are passed on unchanged, with all their fields.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import replace
from functools import cached_property, partial
from itertools import count
from typing import Any
from urllib.parse import parse_qsl, quote

import gevent

from webapp import json_codec
from webapp.base_url import BaseURL
from webapp.errors import ModelNotFound, NotFound, ProviderRefusedRequest, WeirError
from webapp.llm.messages import STATEFUL_FIELDS, ModelRequest, Operation
from webapp.providers.answers import malformed_as_provider_failed
from webapp.providers.base import BaseProvider, NotServed
from webapp.providers.failures import translate_failure
from webapp.providers.http import Endpoint, RefusedByStatus, ReportedInStream
from webapp.providers.parameters import (
    MAX_CALLS,
    MAX_REMEMBERED,
    REMEMBERED_FOR,
    Adaptations,
    Added,
    added_to,
)
from webapp.providers.reported_errors import translate_reported, translate_status
from webapp.providers.response_answers import response_error
from webapp.providers.translation.responses_over_chat.reasoning import without_own

OFFICIAL_URL = "https://api.openai.com/v1"
CHAT_ALONE: frozenset[Operation] = frozenset({"chat/completions", "embeddings"})
# What servers answer that have no such path.
NOT_SERVED = {404, 405, 501}


class OpenAIProvider(BaseProvider):
    """One server of OpenAI's protocol; an empty `address` means OpenAI itself."""

    openai_family = True
    kind = "openai"
    operations = CHAT_ALONE | {"responses"}
    _query = ""

    def __init__(self, name: str, *, api_key: str, address: BaseURL, timeout: float) -> None:
        super().__init__(name, timeout)
        self._api_key = api_key
        self._address = address
        self._base_url = address.url or OFFICIAL_URL
        self._official = self._base_url == OFFICIAL_URL
        # OpenAI's models accept far more. Other servers often have a small context window, and
        # truncate longer inputs silently.
        self.max_input_tokens = 100_000 if self._official else 3_000
        self.identity = f"openai@{self._base_url}?{address.query}".rstrip("?")
        self._adaptations = Adaptations()
        # The models with which the server has no Responses, and since when (monotonic).
        self._chat_alone: dict[str, float] = {}
        self._keep_private(api_key, address)

    @property
    def base_url(self) -> str:
        return self._base_url

    @cached_property
    def _endpoint(self) -> Endpoint:
        return Endpoint(self._base_url, self._headers(), self._timeout, self._address.query)

    def _headers(self) -> dict[str, str]:
        # As the openai SDK: user and password of the URL replace the key.
        if self._address.authorization:
            return {"Authorization": self._address.authorization}
        return {"Authorization": f"Bearer {self._api_key}"} if self._api_key else {}

    def use_key(self, api_key: str) -> None:
        self._keep_private(api_key, self._address)
        self._api_key = api_key
        self._endpoint.headers = self._headers()
        self.latest = None

    @property
    def connection(self) -> tuple[str, dict[str, str], dict[str, str]]:
        """Base URL, headers and query of its calls, for clients of its other endpoints."""
        query = "&".join(filter(None, (self._query.removeprefix("?"), self._address.query)))
        return self._base_url, self._headers(), dict(parse_qsl(query, keep_blank_values=True))

    def operations_of(self, model: str) -> frozenset[Operation]:
        refused_at = self._chat_alone.get(model)
        if refused_at is not None and time.monotonic() - refused_at < REMEMBERED_FOR:
            return CHAT_ALONE
        return self.operations

    def whole_body(self, request: ModelRequest, model: str) -> dict[str, Any]:
        """The body of a request that is not streamed, as far as earlier answers have taught."""
        added = added_to(request, self._limit_of(request), streamed=False)
        return self._body(request, model) | self._adaptations.apply(model, added)

    def default_model(self) -> str | None:
        """The first model that a custom server lists; OpenAI's own list has no order."""
        return None if self._official else super().default_model()

    def _complete(self, request: ModelRequest, model: str) -> str:
        added = added_to(request, self._limit_of(request), streamed=False)
        note = partial(self.limits.note, model)
        for calls in count(1):
            sent = self._adaptations.apply(model, added)
            body = self._body(request, model) | sent
            try:
                return self._endpoint.post(self._path(request, model), body, note)
            except RefusedByStatus as refusal:
                self._check_served(request, model, refusal)
                if not self._may_adapt(refusal, model, added, sent, calls):
                    raise
        raise AssertionError

    def _events(self, request: ModelRequest, model: str) -> Generator[str]:
        added = added_to(request, self._limit_of(request), streamed=True)
        note = partial(self.limits.note, model)
        for calls in count(1):
            sent = self._adaptations.apply(model, added)
            body = self._body(request, model) | sent | {"stream": True}
            options = request.body.get("stream_options")
            # The provider rejects a value that is not an object.
            is_chat = request.operation == "chat/completions"
            if is_chat and isinstance(options, dict) and "stream_options" not in request.defaults:
                body["stream_options"] = {**options, "include_usage": True}
            try:
                yield from self._endpoint.stream(self._path(request, model), body, note)
                return
            except RefusedByStatus as refusal:
                self._check_served(request, model, refusal)
                if not self._may_adapt(refusal, model, added, sent, calls):
                    raise
            except ReportedInStream as reported:
                if request.operation != "responses":
                    raise
                raise response_error(reported.body) from None

    def stored_response(self, method: str, path: str) -> str:
        query = self._query.replace("?", "&") if "?" in path else self._query
        with self._recording():
            try:
                with gevent.Timeout(self._timeout, self._slow()):
                    text = self._endpoint.call(method, f"/responses/{path}{query}")
            except RefusedByStatus as refusal:
                if refusal.status != 404:
                    raise
                raise NotFound(translate_status(404, refusal.body).provider_message) from None
            with malformed_as_provider_failed:
                json_codec.loads(text)
            return text

    def _check_served(self, request: ModelRequest, model: str, refusal: RefusedByStatus) -> None:
        """Raise NotServed if the server may have no Responses. OpenAI and Azure have them, and so
        has a server that misses the model, a field's value, or what it should know of."""
        if request.operation != "responses" or self._official or refusal.status not in NOT_SERVED:
            return
        refers = any(request.body.get(name) for name in STATEFUL_FIELDS)
        error = translate_status(refusal.status, refusal.body)
        others_item = isinstance(error, ProviderRefusedRequest) and error.try_next
        named = others_item or (error.details or {}).get("param")
        if refers or named or isinstance(error, ModelNotFound):
            return
        raise NotServed

    def _remember_not_served(self, model: str) -> None:
        # Not before: servers answer 404 for the content of a request, too.
        if len(self._chat_alone) >= MAX_REMEMBERED:
            self._chat_alone.clear()
        self._chat_alone[model] = time.monotonic()

    def _may_adapt(
        self, refusal: RefusedByStatus, model: str, added: Added, sent: dict[str, Any], calls: int
    ) -> bool:
        """Whether to call again with other parameters."""
        return calls < MAX_CALLS and self._adaptations.learn(
            model, added, sent, refusal.status, refusal.body
        )

    def _list_models(self) -> list[dict[str, Any]]:
        return _listed(self._endpoint.get("/models"))

    def _path(self, request: ModelRequest, model: str) -> str:
        return f"/{request.operation}"

    def _body(self, request: ModelRequest, model: str) -> dict[str, Any]:
        body = {"model": model, **request.body}
        # Native endpoints name the limit as Weir does, not as the server.
        for name in {"max_tokens", "temperature"} if request.native else request.defaults:
            body.pop(name, None)
        if request.operation == "responses" and "input" in body:
            body["input"] = without_own(body["input"])
        return body

    def _limit_of(self, request: ModelRequest) -> str:
        """The name of the limit on the output. For chat, OpenAI's newer models accept only the new
        one; most other servers only the old one."""
        if request.operation == "responses":
            return "max_output_tokens"
        return "max_completion_tokens" if self._official else "max_tokens"

    def _translate(self, error: Exception) -> WeirError | None:
        if isinstance(error, RefusedByStatus):
            return translate_status(error.status, error.body, error.retry_after)
        if isinstance(error, ReportedInStream):
            return translate_reported(error.body)
        return translate_failure(error)


class AzureProvider(OpenAIProvider):
    """Azure OpenAI: `address` is the resource's endpoint, a model is a deployment.

    Without a dated API version, requests use its v1 API
    (learn.microsoft.com/azure/ai-foundry/openai/api-version-lifecycle).
    """

    kind = "azure"

    def __init__(
        self, name: str, *, api_key: str, address: BaseURL, api_version: str, timeout: float
    ) -> None:
        # v1 has versions too, but they are words, such as `preview`.
        self._by_deployment = api_version[:1].isdigit()
        root = f"{address.url}/openai" if self._by_deployment else f"{address.url}/openai/v1"
        super().__init__(name, api_key=api_key, address=replace(address, url=root), timeout=timeout)
        self._query = f"?api-version={api_version}" if api_version else ""
        self._official = True
        if self._by_deployment:
            self.operations = CHAT_ALONE
        self.max_input_tokens = 100_000
        self.identity = f"azure@{self._base_url}{self._query}?{address.query}".rstrip("?")

    def _headers(self) -> dict[str, str]:
        headers = {"api-key": self._api_key}
        if self._address.authorization:
            headers["Authorization"] = self._address.authorization
        return headers

    def _list_models(self) -> list[dict[str, Any]]:
        return _listed(self._endpoint.get(f"/models{self._query}"))

    def _path(self, request: ModelRequest, model: str) -> str:
        if not self._by_deployment:
            return f"/{request.operation}{self._query}"
        # A client may name any model: it must not lead to another path.
        if ".." in model or model == ".":
            raise ModelNotFound(f"Model {model!r} not found. See GET /v1/models.")
        return f"/deployments/{quote(model, safe='')}/{request.operation}{self._query}"


def _listed(body: Any) -> list[dict[str, Any]]:
    """The models of a listing: OpenAI's, a bare list, or a list under `models`.

    Raises ValueError if the body is not a listing.
    """
    listed = body
    if isinstance(body, dict):
        listed = next((body[name] for name in ("data", "models") if body.get(name)), body)
        listed = [] if listed is body and {"data", "models"} & body.keys() else listed
    if not isinstance(listed, list):
        raise ValueError("no list of models")
    return [
        model for model in listed if isinstance(model, dict) and isinstance(model.get("id"), str)
    ]
