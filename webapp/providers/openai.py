"""OpenAI, Azure OpenAI, and all other servers of OpenAI's protocol.

Requests and answers are passed on unchanged, with all their fields.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any
from urllib.parse import quote

from webapp.base_url import BaseURL
from webapp.errors import (
    ModelNotFound,
    ProviderBusy,
    ProviderFailed,
    ProviderRefusedRequest,
    ProviderRefusedWeir,
    ProviderTimedOut,
    WeirError,
)
from webapp.llm.messages import ModelRequest
from webapp.providers.base import BaseProvider
from webapp.providers.http import BROKEN, AnswerTooLong, Endpoint, NotReached, RefusedByStatus

OFFICIAL_URL = "https://api.openai.com/v1"
REFUSALS = {400, 404, 413, 422}


class OpenAIProvider(BaseProvider):
    """One server of OpenAI's protocol; an empty `address` means OpenAI itself."""

    openai_family = True
    kind = "openai"

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

    @cached_property
    def _endpoint(self) -> Endpoint:
        # As the openai SDK: user and password of the URL replace the key.
        headers = {"Authorization": f"Bearer {self._api_key}"} if self._api_key else {}
        if self._address.authorization:
            headers = {"Authorization": self._address.authorization}
        return Endpoint(self._base_url, headers, self._timeout, self._address.query)

    def default_model(self) -> str | None:
        """The first model that a custom server lists; OpenAI's own list has no order."""
        return None if self._official else super().default_model()

    def _complete(self, request: ModelRequest, model: str) -> str:
        return self._endpoint.post(self._path(request, model), self._body(request, model))

    def _events(self, request: ModelRequest, model: str) -> Generator[str]:
        options = request.body.get("stream_options") or {}
        body = self._body(request, model)
        # The provider rejects a value that is not an object.
        if isinstance(options, dict):
            options = {**options, "include_usage": True}
        body |= {"stream": True, "stream_options": options}
        return self._endpoint.stream(self._path(request, model), body)

    def _list_models(self) -> list[dict[str, Any]]:
        return _listed(self._endpoint.get("/models"))

    def _path(self, request: ModelRequest, model: str) -> str:
        return f"/{request.operation}"

    def _body(self, request: ModelRequest, model: str) -> dict[str, Any]:
        body = {"model": model, **request.body}
        if request.output_cap is not None:
            body[self._cap] = request.output_cap
        elif request.native and "max_tokens" in body:
            body[self._cap] = body.pop("max_tokens")
        return body

    @property
    def _cap(self) -> str:
        """OpenAI's newer models accept only the new name; most other servers only the old one."""
        return "max_completion_tokens" if self._official else "max_tokens"

    def _translate(self, error: Exception) -> WeirError | None:
        if isinstance(error, RefusedByStatus):
            return translate_status(error.status, error.body.get("error"), error.retry_after)
        if isinstance(error, NotReached):
            return ProviderFailed("The provider is unreachable.").uncharged()
        if isinstance(error, TimeoutError):
            return ProviderTimedOut("The provider timed out.")
        if isinstance(error, AnswerTooLong):
            return ProviderFailed("The provider's answer is too large.")
        if isinstance(error, BROKEN):
            return ProviderFailed("The connection broke during the provider's answer.")
        if isinstance(error, ValueError):
            return ProviderFailed("The provider's answer does not match OpenAI's schema.")
        return None


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
        self.max_input_tokens = 100_000
        self.identity = f"azure@{self._base_url}{self._query}?{address.query}".rstrip("?")

    @cached_property
    def _endpoint(self) -> Endpoint:
        headers = {"api-key": self._api_key}
        if self._address.authorization:
            headers["Authorization"] = self._address.authorization
        return Endpoint(self._base_url, headers, self._timeout, self._address.query)

    def _list_models(self) -> list[dict[str, Any]]:
        return _listed(self._endpoint.get(f"/models{self._query}"))

    def _path(self, request: ModelRequest, model: str) -> str:
        if not self._by_deployment:
            return f"/{request.operation}{self._query}"
        # A client may name any model: it must not lead to another path.
        if ".." in model or model == ".":
            raise ModelNotFound(f"Model {model!r} not found. See GET /v1/models.")
        return f"/deployments/{quote(model, safe='')}/{request.operation}{self._query}"


def translate_status(status: int, error: Any, retry_after: str | None) -> WeirError:
    """The WeirError for a provider's error status; `error` is the provider's description of it."""
    details: Mapping[str, Any] = error if isinstance(error, dict) else {}
    code = details.get("code")
    text = error if isinstance(error, str) else ""
    message = str(details.get("message") or text).strip()[:1000]
    if status == 404 and code == "model_not_found":
        return ModelNotFound(message or None)
    if status in REFUSALS:
        return ProviderRefusedRequest(
            f"The provider rejected the request: {message or f'status {status}'}",
            details={name: details[name] for name in ("param", "code") if details.get(name)}
            or None,
        )
    if status == 429 and code != "insufficient_quota":
        return ProviderBusy("The provider is busy just now.", retry_after=_seconds(retry_after))
    if status in {401, 402, 403, 429}:
        return ProviderRefusedWeir()
    if status in {408, 504}:
        return ProviderTimedOut("The provider timed out.").uncharged()
    return ProviderFailed(
        f"The provider failed (status {status}).", retry_after=_seconds(retry_after)
    ).uncharged()


def _listed(body: Any) -> list[dict[str, Any]]:
    """The models of a listing. Raises ValueError if the body is not a listing."""
    listed = body.get("data") if isinstance(body, dict) else None
    if not isinstance(listed, list):
        raise ValueError("no list of models")
    return [
        model for model in listed if isinstance(model, dict) and isinstance(model.get("id"), str)
    ]


def _seconds(retry_after: str | None) -> int | None:
    try:
        return max(1, math.ceil(float(retry_after or "")))
    except (ValueError, OverflowError):
        return None
