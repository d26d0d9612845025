"""The provider used when none is configured: real summaries, otherwise a hint how to set one up."""

from __future__ import annotations

import json
import time
from collections.abc import Generator
from typing import Any

from webapp.llm.messages import ModelRequest, Operation
from webapp.llm.tokens import estimate_input_tokens, estimate_tokens
from webapp.providers.base import BaseProvider
from webapp.providers.extractive import summarize
from webapp.threads import run_in_thread

NO_PROVIDER = (
    "No LLM provider is configured, so this is Weir itself speaking, not a model. "
    "To get real answers, set OPENAI_API_KEY, or OPENAI_BASE_URL for any server that speaks "
    "OpenAI's protocol (Ollama, vLLM, ...), and restart Weir."
)
CHUNK_LENGTH = 48


class OfflineProvider(BaseProvider):
    """Summarizes by extracting sentences; answers any other request with NO_PROVIDER."""

    identity = "offline"
    model = "offline"
    max_input_tokens = None
    openai_family = True
    kind = "offline"
    operations: frozenset[Operation] = frozenset({"chat/completions"})
    has_free_call = False

    def __init__(self, timeout: float) -> None:
        super().__init__("offline", timeout)

    def default_model(self) -> str:
        return self.model

    def refusal(self, operation: Operation) -> str | None:
        return super().refusal(operation) and NO_PROVIDER

    def _complete(self, request: ModelRequest, model: str) -> str:
        content = self._content(request)
        message = {"role": "assistant", "content": content, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
        return self._text("chat.completion", [choice], _usage(request, content))

    def _events(self, request: ModelRequest, model: str) -> Generator[str]:
        content = self._content(request)
        chunks = [
            content[start : start + CHUNK_LENGTH] for start in range(0, len(content), CHUNK_LENGTH)
        ]
        deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
        deltas += [{"content": chunk} for chunk in chunks]
        for delta in deltas:
            yield self._text("chat.completion.chunk", [_choice(delta, None)])
        yield self._text("chat.completion.chunk", [_choice({}, "stop")])
        yield self._text("chat.completion.chunk", [], _usage(request, content))

    def _content(self, request: ModelRequest) -> str:
        source = request.source
        return (
            run_in_thread(lambda: summarize(source.text, source.length)) if source else NO_PROVIDER
        )

    def _text(
        self, kind: str, choices: list[dict[str, Any]], usage: dict[str, int] | None = None
    ) -> str:
        body = {
            "id": "chatcmpl-offline",
            "object": kind,
            "created": int(time.time()),
            "model": self.model,
            "choices": choices,
        }
        return json.dumps(body | ({"usage": usage} if usage else {}))

    def _list_models(self) -> list[dict[str, Any]]:
        return [{"id": self.model, "object": "model", "created": 0, "owned_by": "weir"}]

    def _translate(self, error: Exception) -> None:
        return None


def _choice(delta: dict[str, Any], finish_reason: str | None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}


def _usage(request: ModelRequest, content: str) -> dict[str, int]:
    prompt, completion = estimate_input_tokens(request.body), estimate_tokens(content)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }
