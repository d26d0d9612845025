"""Reads what providers answer in OpenAI's format: tolerant of what may be missing, exact about
what is an error.

Answers and chunks are passed on to clients as they came.
"""

from __future__ import annotations

import json
import re
from typing import Any

from webapp import json_codec
from webapp.errors import ProviderError, ProviderFailed, WeirError
from webapp.llm.messages import Answer, Chunk, ModelRequest, Usage
from webapp.llm.stream_usage import StreamUsage
from webapp.providers.reported_errors import translate_reported
from webapp.providers.usage import generated_text, read_usage

CUT = "The provider's stream ended early."
NOT_UNDERSTOOD = "The provider's answer does not match OpenAI's schema."
NO_USAGE = re.compile(r',\s*"usage"\s*:\s*null')
MALFORMED_ERRORS = (ValueError, LookupError, TypeError, AttributeError, RecursionError)


def read_answer(text: str, request: ModelRequest, model: str, provider: str) -> Answer:
    """The whole answer. Raises the error that it holds, or ProviderFailed."""
    with malformed_as_provider_failed:
        body = json_codec.loads(text)
        if not isinstance(body, dict):
            raise ValueError("no object")
        _raise_error(body, request, model)
        if request.operation == "embeddings":
            body["data"][0]["embedding"]
            content = generated = ""
        else:
            messages = [_message(choice, "message") for choice in _choices(body)]
            if not messages:
                raise ValueError("no choices")
            content = text_of(messages[0])
            generated = "".join(map(generated_text, messages))
        answered = _name(body.get("model")) or model
        usage = _usage(body, request, model, generated)
    return Answer(content, answered, provider, usage, body=text)


class StreamReader:
    """Reads the chunks of one stream; `is_whole` says that every choice has its end."""

    def __init__(
        self, request: ModelRequest, model: str, provider: str, stream_usage: StreamUsage
    ) -> None:
        self._request = request
        self._model = model
        self._provider = provider
        self._stream_usage = stream_usage
        self._texts: list[str] = []
        self._generated: list[str] = []
        self._answered: str | None = None
        self._usage: Any = None
        self._tier: Any = None
        self._begun: set[int] = set()
        self._finished: set[int] = set()

    @property
    def is_whole(self) -> bool:
        choices = self._request.body.get("n")
        wanted = choices if isinstance(choices, int) else 1
        return self._begun == self._finished and len(self._finished) >= max(1, wanted)

    def read(self, data: str) -> list[Chunk]:
        """The chunks for the client; none if it only holds what the client did not ask for.

        Raises the error that it holds, or ProviderFailed.
        """
        with malformed_as_provider_failed:
            chunk = json_codec.loads(data)
            if chunk is None:
                return []
            if not isinstance(chunk, dict):
                raise ValueError("no object")
            if _is_whole(chunk):
                return [part for whole in _chunks_of(chunk) for part in self.read(whole)]
            _raise_error(chunk, self._request, self._model, self._usage)
            read = self._read(chunk, data)
            return [read] if read else []

    def end(self, *, said_done: bool) -> None:
        """Raise ProviderFailed if the stream ended early. A server that says [DONE] may leave out
        all finish reasons, but not some."""
        tolerable = said_done and self._begun and (not self._finished or self._all_finished)
        if not (tolerable or self.is_whole):
            raise ProviderFailed(CUT)

    def answer(self) -> Answer:
        with malformed_as_provider_failed:
            body = {"usage": self._usage, "service_tier": self._tier}
            usage = _usage(body, self._request, self._model, "".join(self._generated))
        answered = self._answered or self._model
        return Answer("".join(self._texts), answered, self._provider, usage)

    @property
    def _all_finished(self) -> bool:
        return self._begun == self._finished

    def _read(self, chunk: dict[str, Any], data: str) -> Chunk | None:
        choices = _choices(chunk)
        ended, begins, text, generated = False, False, "", ""
        for position, choice in enumerate(choices):
            delta = _message(choice, "delta")
            index = choice.get("index")
            index = index if isinstance(index, int) else position
            self._begun.add(index)
            if choice.get("finish_reason"):
                ended = True
                self._finished.add(index)
            begins = begins or any(value for name, value in delta.items() if name != "role")
            generated += generated_text(delta)
            if index == 0:
                text += text_of(delta)
        if choices:
            self._stream_usage.count(generated)
        if generated:
            self._generated.append(generated)
        if text:
            self._texts.append(text)
        self._answered = _name(chunk.get("model")) or self._answered
        self._tier = chunk.get("service_tier") or self._tier
        usage = chunk.get("usage") or _usage_of_choice(choices)
        if usage:
            self._usage = usage
            if ended or not choices:
                body = {"usage": usage, "service_tier": self._tier}
                self._stream_usage.usage = _usage(body, self._request, self._model, "")
        if self._request.native:
            return Chunk("", text) if text else None
        return self._for_client(chunk, data, Chunk(data, text, begins or ended))

    def _for_client(self, chunk: dict[str, Any], data: str, read: Chunk) -> Chunk | None:
        """The chunk as the client wants it: usage only if it asked for that."""
        usage, has_choices = chunk.get("usage"), bool(chunk.get("choices"))
        if self._request.usage_wanted:
            if usage and chunk.get("choices") is None:
                # openai-python reads a missing list of choices as None, and breaks on it.
                return Chunk(json.dumps({**json.loads(data), "choices": []}), read.text, False)
            return read
        if "usage" not in chunk:
            return read
        if usage and not has_choices:
            return None
        if not usage and data.count('"usage"') == 1 and "\\u" not in data:
            # OpenAI's chunks: found in the text, as decoding and encoding each takes longer.
            without, found = NO_USAGE.subn("", data)
            if found:
                return Chunk(without, read.text, read.begins)
        # Not json_codec, which may change numbers: this is passed on to the client.
        exact = json.loads(data)
        del exact["usage"]
        return Chunk(json.dumps(exact), read.text, read.begins)


def text_of(message: dict[str, Any]) -> str:
    """The text of a message or delta: its content, which may be a list of parts, or its refusal."""
    content = message.get("content")
    if isinstance(content, list):
        parts = (part.get("text") if isinstance(part, dict) else part for part in content)
        content = "".join(part for part in parts if isinstance(part, str))
    if isinstance(content, str) and content:
        return content
    refusal = message.get("refusal")
    return refusal if isinstance(refusal, str) else ""


def reported_error(body: Any, usage: Usage | None = None) -> WeirError:
    """The error that a provider reports with status 200; `usage` is what it reported with it."""
    error = translate_reported(body)
    if isinstance(error, ProviderError):
        error.usage = usage
    return error


def _raise_error(
    body: dict[str, Any], request: ModelRequest, model: str, usage: Any = None
) -> None:
    """Raise the error that an answer or a chunk is, or that one of its choices ended with."""
    found = body if body.get("error") or body.get("object") == "error" else None
    generates = request.operation != "embeddings"
    for choice in _choices(body) if found is None and generates else ():
        if choice.get("finish_reason") == "error":
            reported = choice.get("error")
            found = {"error": reported} if reported else {"error": "The generation failed."}
    if found is not None:
        usage = body.get("usage") or usage
        told = _usage({**body, "usage": usage}, request, model, "") if usage else None
        raise reported_error(found, told)


def _choices(body: dict[str, Any]) -> list[dict[str, Any]]:
    choices = body.get("choices")
    if choices is None:
        return []
    if not isinstance(choices, list):
        raise TypeError("choices is no list")
    return [choice for choice in choices if isinstance(choice, dict)]


def _message(choice: dict[str, Any], name: str) -> dict[str, Any]:
    """The message or delta of a choice; empty if there is none."""
    message = choice.get(name)
    return message if isinstance(message, dict) else {}


def _usage(body: dict[str, Any], request: ModelRequest, model: str, generated: str) -> Usage:
    return read_usage(body.get("usage"), request, model, generated, body.get("service_tier"))


def _is_whole(body: dict[str, Any]) -> bool:
    """Whether it is an answer of a server that does not stream, not a chunk."""
    choices = _choices(body)
    whole = any(isinstance(choice.get("message"), dict) for choice in choices)
    return whole and not any("delta" in choice for choice in choices)


def _usage_of_choice(choices: list[dict[str, Any]]) -> Any:
    """The usage that Moonshot puts into the last choice (platform.moonshot.ai/docs)."""
    return next((choice["usage"] for choice in choices if choice.get("usage")), None)


def _name(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _chunks_of(body: dict[str, Any]) -> list[str]:
    """The chunks of a whole answer, from a server that does not stream."""
    head = {name: value for name, value in body.items() if name not in {"choices", "usage"}}
    head["object"] = "chat.completion.chunk"
    choices = []
    for choice in _choices(body):
        delta = {**_message(choice, "message")}
        calls = delta.get("tool_calls")
        if isinstance(calls, list):
            delta["tool_calls"] = [
                {"index": place, **call} for place, call in enumerate(calls)
                if isinstance(call, dict)
            ]  # fmt: skip
        rest = {name: value for name, value in choice.items() if name != "message"}
        choices.append({**rest, "delta": delta})
    chunks = [{**head, "choices": choices}]
    if body.get("usage"):
        chunks.append({**head, "choices": [], "usage": body["usage"]})
    return [json.dumps(chunk) for chunk in chunks]


class _MalformedAsProviderFailed:
    """Wraps code that reads a provider's answer, which may hold anything."""

    def __enter__(self) -> None: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: object
    ) -> None:
        if isinstance(error, MALFORMED_ERRORS):
            raise ProviderFailed(NOT_UNDERSTOOD) from None


# A single instance, as it is entered for every chunk.
malformed_as_provider_failed = _MalformedAsProviderFailed()
