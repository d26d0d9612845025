"""The endpoints as lines of batches name them: OpenAI's, with their schemas and envelope."""

from __future__ import annotations

from typing import Any

from webapp.api import completions, embeddings, responses
from webapp.api.blueprint import MEBIBYTE, STRICT_JSON, ModelEndpoint, validated
from webapp.api.dialects.openai import OPENAI
from webapp.errors import ValidationError, WeirError
from webapp.llm.messages import ModelRequest


class OpenAILineFormat:
    """Implements LineFormat."""

    max_body = 20 * MEBIBYTE

    def __init__(self) -> None:
        modules = (completions, embeddings, responses)
        found = [module.blueprint.model_endpoint for module in modules]
        self._endpoints: dict[str, ModelEndpoint] = {one.path: one for one in found if one}
        self.endpoints = tuple(self._endpoints)

    def decode(self, line: bytes) -> Any:
        """A line as JSON. Raises ValueError."""
        try:
            return STRICT_JSON.decode(line.decode())
        except RecursionError:
            raise ValueError("it is nested too deeply") from None

    def model_request(self, endpoint: str, body: dict[str, Any]) -> ModelRequest:
        """The model request of a body. Raises ValidationError."""
        of_endpoint = self._endpoints[endpoint]
        request = of_endpoint.to_model_request(validated(of_endpoint.schema, body))
        if request.stream:
            details = {"stream": ["Lines of a batch cannot be streamed."]}
            raise ValidationError("The request is not valid: stream.", details=details)
        return request

    def error(self, error: WeirError) -> tuple[int, dict[str, Any]]:
        """Status and body of the response for an error."""
        return OPENAI.status(error), OPENAI.envelope(error)
