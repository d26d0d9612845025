"""Answers where no provider is configured: real summaries, and how to configure one."""

from __future__ import annotations

from collections.abc import Iterator

from webapp.beside import beside
from webapp.llm.extractive import summarize
from webapp.llm.messages import Answer, ChatRequest, Usage, estimate_tokens
from webapp.providers.base import BaseProvider

NO_PROVIDER = (
    "No LLM provider is configured, so this is Weir itself speaking, not a model. "
    "To get real answers, set OPENAI_API_KEY, or OPENAI_BASE_URL for any server that speaks "
    "OpenAI's protocol (Ollama, vLLM, ...), and restart Weir."
)
PIECE = 48


class OfflineProvider(BaseProvider):
    """Extracts the most central sentences of a text; of anything else it says it cannot."""

    name = "offline"
    identity = "offline"
    model = "offline"
    piece_tokens = None

    def default_model(self) -> str:
        return self.model

    def _answer(self, request: ChatRequest, model: str) -> Answer:
        source = request.source
        content = beside(lambda: summarize(source.text, source.length)) if source else NO_PROVIDER
        prompt = sum(estimate_tokens(message.content) for message in request.messages)
        usage = Usage(prompt, estimate_tokens(content))
        return Answer(content, self.model, self.name, usage, cost_usd=0.0)

    def _stream(self, request: ChatRequest, model: str) -> Iterator[str | Answer]:
        answer = self._answer(request, model)
        for start in range(0, len(answer.content), PIECE):
            yield answer.content[start : start + PIECE]
        yield answer

    def _list_models(self) -> list[str]:
        return [self.model]

    def _translate(self, error: Exception) -> None:
        return None
