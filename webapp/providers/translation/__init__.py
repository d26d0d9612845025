"""Between the formats of requests: what a client speaks, and what its provider does.

A provider whose family speaks the format of a request passes it on. For others, a Translation says
how the request, its answer and its stream are told in the other format; they know no HTTP. What
cannot be carried over is an UnsupportedParameter that names it (docs/translation.md).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

from webapp.errors import ProviderRefusedRequest
from webapp.llm.messages import Answer, ModelRequest, Operation, Usage
from webapp.llm.tokens import estimate_messages_tokens
from webapp.providers.translation.chat_over_messages.answer import ChunkWriter, to_chat_answer
from webapp.providers.translation.chat_over_messages.request import to_messages
from webapp.providers.translation.composed import composed
from webapp.providers.translation.messages_over_chat.answer import EventWriter, to_message
from webapp.providers.translation.messages_over_chat.request import (
    full_names,
    max_tokens_of,
    to_chat,
)
from webapp.providers.translation.responses_over_chat.answer import ResponseWriter, to_response
from webapp.providers.translation.responses_over_chat.request import max_tokens_of as max_output_of
from webapp.providers.translation.responses_over_chat.request import to_chat as responses_to_chat
from webapp.threads import run_in_thread

# What a server of chat completions may not know, and can be left out.
ADAPTABLE = frozenset({"reasoning_effort", "stream_options", "verbosity"})
# The names in Responses of what is carried over to chat completions.
RESPONSES_NAMES = {
    "logprobs": "include",
    "messages": "input",
    "reasoning_effort": "reasoning.effort",
    "response_format": "text.format",
    "tools": "tools",
}


class StreamWriter(Protocol):
    """Writes the events of one stream in the client's format, each as JSON text."""

    def take(self, data: str) -> list[str]:
        """What an event of the provider's becomes."""
        ...

    def end(self, usage: Usage) -> list[str]:
        """What follows the last event of the provider's. `usage` is that of the whole stream."""
        ...


@dataclass(frozen=True, slots=True)
class Translation:
    """How a request is told to a provider, and its answer to the client.

    `answer` takes a provider's answer, the client's request, and the model that was asked for.
    """

    request: Callable[[ModelRequest, str], ModelRequest]
    answer: Callable[[Answer, ModelRequest, str], str]
    writer: Callable[[ModelRequest, str], StreamWriter]


def can_answer(operation: Operation, spoken: Collection[Operation]) -> bool:
    """Whether a provider that speaks these formats has a way to answer such requests."""
    return operation in spoken or any((operation, one) in TRANSLATIONS for one in spoken)


def translation_for(request: ModelRequest, spoken: Collection[Operation]) -> Translation | None:
    """How a provider that speaks these formats answers the request; None if it speaks its own.

    Raises ProviderRefusedRequest where there is no way.
    """
    if request.operation in spoken:
        return None
    for operation in spoken:
        if found := TRANSLATIONS.get((request.operation, operation)):
            return found
    raise ProviderRefusedRequest(
        f"The provider of this model does not support {request.operation}."
    )


def _chat_as_messages(request: ModelRequest, model: str) -> ModelRequest:
    body = to_messages(request.body, model, request.output_cap)
    return replace(request, operation="messages", body=body)


def _messages_as_chat(request: ModelRequest, model: str) -> ModelRequest:
    # The provider knows under which name its server takes the limit.
    limit = max_tokens_of(request.body)
    limit = min(limit, request.output_cap or limit)
    body = to_chat(request.body)
    if request.stream:
        body["stream_options"] = {"include_usage": True}
    return replace(
        request,
        operation="chat/completions",
        body=body,
        output_cap=limit,
        output_cap_needed=True,
        defaults=ADAPTABLE & body.keys(),
        headers={},
    )


def _input_of(request: ModelRequest) -> Callable[[], int]:
    """Estimates the tokens of the input of Messages."""
    return lambda: run_in_thread(lambda: estimate_messages_tokens(request.body))


def _responses_as_chat(request: ModelRequest, model: str, *, claude: bool = False) -> ModelRequest:
    limit = max_output_of(request.body)
    body = responses_to_chat(request.body, model, claude=claude)
    if request.stream:
        body["stream_options"] = {"include_usage": True}
    return replace(
        request,
        operation="chat/completions",
        body=body,
        output_cap=min(limit, request.output_cap or limit) if limit else request.output_cap,
        output_cap_needed=request.output_cap_needed or limit is not None,
        defaults=ADAPTABLE & body.keys(),
        headers={},
    )


def _responses_over_chat(*, claude: bool) -> Translation:
    return Translation(partial(_responses_as_chat, claude=claude), to_response, ResponseWriter)


CHAT_OVER_MESSAGES = Translation(
    _chat_as_messages,
    lambda answer, _, model: to_chat_answer(answer, model),
    lambda request, model: ChunkWriter(model, usage_wanted=request.usage_wanted),
)
TRANSLATIONS: dict[tuple[Operation, Operation], Translation] = {
    ("chat/completions", "messages"): CHAT_OVER_MESSAGES,
    ("messages", "chat/completions"): Translation(
        _messages_as_chat,
        lambda answer, request, model: to_message(answer, model, full_names(request.body)),
        lambda request, model: EventWriter(model, _input_of(request), full_names(request.body)),
    ),
    ("responses", "chat/completions"): _responses_over_chat(claude=False),
    ("responses", "messages"): composed(
        _responses_over_chat(claude=True), CHAT_OVER_MESSAGES, RESPONSES_NAMES
    ),
}
